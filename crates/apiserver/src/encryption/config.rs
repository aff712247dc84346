//! EncryptionConfiguration v1 (apiserver.config.k8s.io): which resources are sealed, with which providers, in which order.
//!
//! The rules are upstream's (apiserver/validation/validation_encryption.go). KMS v1, which upstream turned off in 1.29, is refused.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use knarr_store::{Cipher, Collection, Pattern, Provider, Sealing, SealingKey};
use serde::{Deserialize, Serialize};

use super::kms::{Kms, KmsSettings};

pub(super) const API_VERSION: &str = "apiserver.config.k8s.io/v1";
pub(super) const KIND: &str = "EncryptionConfiguration";

/// Upstream's default for a call to a key service.
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct EncryptionConfiguration {
    pub(super) api_version: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) resources: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(default)]
    pub(super) resources: Vec<String>,
    #[serde(default)]
    pub(super) providers: Vec<ProviderConfig>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) aesgcm: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) aescbc: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secretbox: Option<Keys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Identity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kms: Option<KmsConfig>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    #[serde(default)]
    pub(super) keys: Vec<NamedKey>,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedKey {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) secret: String,
}

/// Never the secret.
impl std::fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamedKey").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct KmsConfig {
    api_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
    cachesize: Option<i64>,
}

/// A configuration from YAML or JSON, or what is wrong with it.
pub(super) fn parse(text: &[u8]) -> Result<EncryptionConfiguration, String> {
    let value = knarr_api::decode::value_from_yaml(text)?;
    let config: EncryptionConfiguration = serde_json::from_value(value).map_err(|error| without_values(&error.to_string()))?;
    if config.api_version != API_VERSION || config.kind != KIND {
        return Err(format!("it is {} {:?}; expected {API_VERSION} {KIND}", config.api_version, config.kind));
    }
    let faults = faults(&config);
    if faults.is_empty() { Ok(config) } else { Err(faults.join("; ")) }
}

/// The message of serde without what it quotes from the file, where a secret may stand in the wrong place. Names of fields stay.
fn without_values(message: &str) -> String {
    let is_name = |text: &&str| text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        let harmless = message.starts_with("missing field") || message.starts_with("duplicate field");
        return if harmless { message.to_owned() } else { "a value is not what it should be".to_owned() };
    };
    let field = found.strip_prefix("unknown field `").map(|rest| rest.trim_end_matches('`'));
    match field {
        Some(name) if is_name(&name) => format!("unknown field `{name}`, expected {expected}"),
        Some(_) => format!("unknown field, expected {expected}"),
        None => format!("a value of the wrong type, expected {expected}"),
    }
}

fn faults(config: &EncryptionConfiguration) -> Vec<String> {
    let mut faults = Vec::new();
    if config.resources.is_empty() {
        faults.push("resources: at least one resources is required".to_owned());
    }
    let mut services = BTreeSet::new();
    for (index, rule) in config.resources.iter().enumerate() {
        let path = format!("resources[{index}].resources");
        if rule.resources.is_empty() {
            faults.push(format!("{path}: at least one {path} is required"));
        }
        faults.extend(overlaps(&rule.resources).into_iter().map(|fault| format!("{path}: {fault}")));
        let names = rule.resources.iter().enumerate();
        faults.extend(names.filter_map(|(at, name)| Some(format!("{path}[{at}]: {}: {name:?}", name_fault(name)?))));
        let path = format!("resources[{index}].providers");
        if rule.providers.is_empty() {
            faults.push(format!("{path}: at least one {path} is required"));
        }
        for (at, provider) in rule.providers.iter().enumerate() {
            faults.extend(provider_faults(provider, &mut services).into_iter().map(|fault| format!("{path}[{at}]{fault}")));
        }
    }
    faults
}

fn overlaps(resources: &[String]) -> Vec<&'static str> {
    let parsed: Vec<_> = resources.iter().map(|name| group_resource(name)).collect();
    let pairs = || parsed.iter().enumerate().flat_map(|(at, one)| parsed[at + 1..].iter().map(move |other| (one, other)));
    let any = ("*", "*");
    let overlap = |one: &(&str, &str), other: &(&str, &str)| {
        one != other && (*one == any || *other == any || (one.1 == other.1 && (one.0 == "*" || other.0 == "*")))
    };
    let mut faults = Vec::new();
    if pairs().any(|(one, other)| one == other) {
        faults.push("the same resource cannot be specified multiple times");
    }
    if pairs().any(|(one, other)| overlap(one, other)) {
        faults
            .push("using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked");
    }
    faults
}

/// Resource and group of `deployments.apps`, `secrets`, `*.`, `*.*`.
fn group_resource(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

fn name_fault(name: &str) -> Option<&'static str> {
    let (resource, group) = group_resource(name);
    if name.to_lowercase() != name {
        return Some("resource name should not contain capital letters");
    }
    match (name, resource, group) {
        ("*", ..) => Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, _, "events.k8s.io") => {
            Some("'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file")
        }
        (_, _, "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, resource, "*") if resource != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

fn provider_faults(provider: &ProviderConfig, services: &mut BTreeSet<String>) -> Vec<String> {
    let ProviderConfig { aesgcm, aescbc, secretbox, identity, kms } = provider;
    let given = [aesgcm.is_some(), aescbc.is_some(), secretbox.is_some(), identity.is_some(), kms.is_some()];
    match given.into_iter().filter(|given| *given).count() {
        0 => return vec![": provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity".to_owned()],
        1 => {}
        _ => return vec![": more than one provider specified in a single element, should split into different list elements".to_owned()],
    }
    let mut faults = Vec::new();
    for (name, cipher, keys) in ciphers(provider) {
        if keys.keys.is_empty() {
            faults.push(format!(".{name}.keys: at least one keys is required"));
        }
        let wrong = keys.keys.iter().enumerate().filter_map(|(at, key)| Some((at, make_key(cipher, key).err()?)));
        faults.extend(wrong.map(|(at, fault)| format!(".{name}.keys[{at}]{fault}")));
    }
    if let Some(kms) = kms {
        faults.extend(kms_faults(kms, services).into_iter().map(|fault| format!(".kms{fault}")));
    }
    faults
}

fn ciphers(provider: &ProviderConfig) -> impl Iterator<Item = (&'static str, Cipher, &Keys)> {
    let all = [
        ("aesgcm", Cipher::AesGcm, &provider.aesgcm),
        ("aescbc", Cipher::AesCbc, &provider.aescbc),
        ("secretbox", Cipher::Secretbox, &provider.secretbox),
    ];
    all.into_iter().filter_map(|(name, cipher, keys)| Some((name, cipher, keys.as_ref()?)))
}

fn make_key(cipher: Cipher, key: &NamedKey) -> Result<SealingKey, String> {
    if key.name.is_empty() {
        return Err(".name: name is a mandatory field for a key".to_owned());
    }
    // Upstream takes a colon here, and then cannot tell where the name ends.
    if key.name.contains(':') {
        return Err(format!(".name: invalid key name {:?}, must not contain ':'", key.name));
    }
    if key.secret.is_empty() {
        return Err(".secret: secret is a mandatory field for a key".to_owned());
    }
    let secret = STANDARD.decode(&key.secret).map_err(|_| ".secret: secrets must be base64 encoded".to_owned())?;
    SealingKey::new(cipher, &key.name, &secret).map_err(|error| format!(".secret: {error}"))
}

fn kms_faults(kms: &KmsConfig, services: &mut BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let version = kms.api_version.as_deref().unwrap_or("v1");
    match version {
        "v2" => {}
        "v1" => faults.push(".apiVersion: KMS v1 is not supported; use a key service that speaks v2, and apiVersion v2".to_owned()),
        other => faults.push(format!(".apiVersion: unsupported apiVersion {other} for KMS provider, only v2 is supported")),
    }
    if kms.name.is_empty() {
        faults.push(".name: name is a mandatory field for a provider".to_owned());
    } else if kms.name.contains(':') {
        faults.push(format!(".name: invalid KMS provider name {}, must not contain ':'", kms.name));
    } else if !services.insert(kms.name.clone()) {
        faults.push(format!(".name: duplicate KMS provider name {}, names must be unique", kms.name));
    }
    if kms.cachesize.is_some() && version == "v2" {
        faults.push(".cachesize: cachesize is not supported in v2".to_owned());
    }
    if let Err(fault) = timeout(kms) {
        faults.push(format!(".timeout: {fault}"));
    }
    if let Err(fault) = endpoint(kms) {
        faults.push(format!(".endpoint: {fault}"));
    }
    faults
}

fn timeout(kms: &KmsConfig) -> Result<Duration, String> {
    let Some(text) = &kms.timeout else { return Ok(KMS_TIMEOUT) };
    let nanoseconds = knarr_api::duration::parse(text).ok_or_else(|| format!("{text:?} is not a duration; write 3s or 500ms"))?;
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds @ 1..) => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err("timeout should be a positive value".to_owned()),
    }
}

fn endpoint(kms: &KmsConfig) -> Result<PathBuf, String> {
    match kms.endpoint.split_once("://") {
        _ if kms.endpoint.is_empty() => Err("endpoint is a mandatory field for a kms".to_owned()),
        Some(("unix", path)) if path.starts_with('/') => Ok(path.into()),
        Some(("unix", _)) => Err("a unix endpoint needs an absolute path, such as unix:///run/kms.sock".to_owned()),
        Some((scheme, _)) => Err(format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported")),
        None => Err("unsupported scheme \"\" for KMS provider, only unix is supported".to_owned()),
    }
}

/// The configuration put to use. Asks key services for their state, and so may block for as long as their timeouts say.
pub(super) fn sealing(config: &EncryptionConfiguration) -> Result<Arc<Sealing>, String> {
    let mut rules: Vec<(Pattern, Vec<Arc<Provider>>)> = Vec::new();
    for rule in &config.resources {
        let mut providers = Vec::new();
        for provider in &rule.providers {
            providers.extend(make_providers(provider)?.into_iter().map(Arc::new));
        }
        // What an earlier entry covers with a wildcard is not this one's (encryptionconfig/config.go).
        let masked = |pattern: &Pattern| rules.iter().any(|(earlier, _)| masks(earlier, pattern));
        let open: Vec<Pattern> = rule.resources.iter().map(|name| pattern(name)).filter(|pattern| !masked(pattern)).collect();
        rules.extend(open.into_iter().map(|pattern| (pattern, providers.clone())));
    }
    Ok(Sealing::new(rules))
}

fn masks(earlier: &Pattern, later: &Pattern) -> bool {
    match (earlier, later) {
        (Pattern::All, later) => *later != Pattern::All,
        (Pattern::Group(group), Pattern::Collection(collection)) => collection.as_str().split('/').next() == Some(group),
        _ => false,
    }
}

fn pattern(name: &str) -> Pattern {
    let (resource, group) = group_resource(name);
    let group = if group.is_empty() { "core" } else { group };
    match (resource, group) {
        ("*", "*") => Pattern::All,
        ("*", group) => Pattern::Group(group.to_owned()),
        (resource, group) => Pattern::Collection(Collection::new(&format!("{group}/{resource}"))),
    }
}

fn make_providers(provider: &ProviderConfig) -> Result<Vec<Provider>, String> {
    if provider.identity.is_some() {
        return Ok(vec![Provider::Identity]);
    }
    if let Some(kms) = &provider.kms {
        let settings = KmsSettings { name: kms.name.clone(), socket: endpoint(kms)?, timeout: timeout(kms)? };
        let service = Kms::start(settings).map_err(|error| format!("start the thread of key service {}: {error}", kms.name))?;
        return Ok(vec![Provider::Service(Arc::new(service))]);
    }
    let keys = ciphers(provider).flat_map(|(_, cipher, keys)| keys.keys.iter().map(move |key| make_key(cipher, key)));
    keys.map(|key| key.map(Provider::Key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "c2VjcmV0IGlzIHNlY3VyZSwgb3IgaXMgaXQ/AAAAAAA=";

    fn faults_of(resources: &str) -> String {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\nresources: {resources}\n");
        parse(text.as_bytes()).map_or_else(|error| error, |_| "none".to_owned())
    }

    fn check(resources: &str, expected: &str) {
        let faults = faults_of(resources);
        assert!(faults.contains(expected), "{resources}: {faults}");
    }

    #[test]
    fn every_rule_of_upstream_is_kept() {
        let with = |resources: &str| format!("[{{resources: {resources}, providers: [{{identity: {{}}}}]}}]");
        let by = |provider: &str| format!("[{{resources: [secrets], providers: [{provider}]}}]");
        check("[]", "at least one resources is required");
        check(&with("[]"), "resources[0].resources: at least one");
        check(&with("[Secrets]"), "capital letters");
        check(&with("['*']"), "use '*.'");
        check(&with("[secrets, '*.']"), "overlapping");
        check(&with("['*.*', deployments.apps]"), "overlapping");
        check(&with("[secrets, secrets]"), "multiple times");
        check(&with("[serviceipallocations]"), "do not have REST");
        check(&with("[events.events.k8s.io]"), "Use 'events' instead");
        check(&with("[deployments.extensions]"), "has been removed");
        check(&with("['secrets.*']"), "across groups");
        check(&with("[secrets, '*.apps', deployments.batch]"), "none");
        check("[{resources: [secrets], providers: []}]", "resources[0].providers: at least one");
        check(&by("{}"), "does not contain any");
        check(&by(&format!("{{identity: {{}}, aesgcm: {{keys: [{{name: a, secret: {KEY}}}]}}}}")), "more than one provider");
        check(&by("{aesgcm: {keys: []}}"), "aesgcm.keys: at least one keys");
        check(&by(&format!("{{aesgcm: {{keys: [{{secret: {KEY}}}]}}}}")), "keys[0].name: name is a mandatory");
        check(&by("{aesgcm: {keys: [{name: a}]}}"), "keys[0].secret: secret is a mandatory");
        check(&by("{aescbc: {keys: [{name: a, secret: '?'}]}}"), "base64");
        check(&by("{secretbox: {keys: [{name: a, secret: AAAA}]}}"), "got 3, expected one of [32]");
        check(&by(&format!("{{aesgcm: {{keys: [{{name: a, secret: {KEY}}}]}}}}")), "none");
        check(&by("{aesgmc: {}}"), "unknown field `aesgmc`");
        let kms = |fields: &str| by(&format!("{{kms: {{{fields}}}}}"));
        check(&kms("name: a, endpoint: 'unix:///a'"), "KMS v1 is not supported");
        check(&kms("apiVersion: v3, name: a, endpoint: 'unix:///a'"), "unsupported apiVersion v3");
        check(&kms("apiVersion: v2, endpoint: 'unix:///a'"), "name is a mandatory");
        check(&kms("apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'"), "must not contain ':'");
        check(&kms("apiVersion: v2, name: a"), "endpoint is a mandatory");
        check(&kms("apiVersion: v2, name: a, endpoint: 'tcp://a'"), "only unix is supported");
        check(&kms("apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: 0s"), "positive value");
        check(&kms("apiVersion: v2, name: a, endpoint: 'unix:///a', cachesize: 10"), "not supported in v2");
        check(&kms("apiVersion: v2, name: a, endpoint: 'unix:///a', timeout: 1m30s"), "none");
        let twice = "{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}, {kms: {apiVersion: v2, name: a, endpoint: 'unix:///b'}}";
        check(&by(twice), "duplicate KMS provider name a");
    }

    #[test]
    fn messages_never_show_a_secret() {
        for keys in [
            "{keys: [{name: a, secret: 'not base64 but secret'}]}",
            "{keys: [{name: a, secret: [not base64 but secret]}]}",
            "{keys: ['not base64 but secret']}",
            "{keys: [{'not base64 but secret': a}]}",
            "'not base64 but secret, expected \"'",
        ] {
            let faults = faults_of(&format!("[{{resources: [secrets], providers: [{{aesgcm: {keys}}}]}}]"));
            assert!(faults != "none" && !faults.contains("not base64"), "{faults}");
        }
    }

    #[test]
    fn other_kinds_are_named() {
        let error = parse(b"apiVersion: v1\nkind: Pod\n").unwrap_err();
        assert!(error.contains("expected apiserver.config.k8s.io/v1 EncryptionConfiguration"), "{error}");
    }

    #[test]
    fn a_wildcard_masks_what_comes_after_it() {
        assert!(masks(&pattern("*."), &pattern("secrets")));
        assert!(!masks(&pattern("*.apps"), &pattern("secrets")));
        assert!(masks(&pattern("*.*"), &pattern("*.apps")));
        assert!(!masks(&pattern("secrets"), &pattern("*.")));
    }
}
