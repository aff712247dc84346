//! Targets given by a kubeconfig file, as upstream's flags and configuration files for webhooks have them: its current context, or the only one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::Engine as _;
use http::HeaderValue;
use rustls::client::ResolvesClientCert;
use rustls::sign::SingleCertAndKey;
use serde_json::Value;

use super::identity::{self, Identity};
use super::target::{Authorization, ConfigError, Target, TokenFile, Trust, bearer, field};

impl Target {
    /// Paths in the file are relative to its folder.
    pub(crate) fn from_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let at = path.display().to_string();
        let config = knarr_api::decode::value_from_yaml(&text).map_err(|error| field(&at, error))?;
        let file = File { at, dir: path.parent().unwrap_or(Path::new(".")), config };
        let (cluster, user) = file.chosen()?;
        file.target(&cluster, &user)
    }
}

struct File<'a> {
    at: String,
    dir: &'a Path,
    config: Value,
}

impl File<'_> {
    fn field(&self, name: &str, why: impl ToString) -> ConfigError {
        field(format!("{}: {name}", self.at), why)
    }

    fn chosen(&self) -> Result<(Value, Value), ConfigError> {
        let current = self.config["current-context"].as_str().unwrap_or_default();
        let contexts = self.config["contexts"].as_array().map_or(&[][..], Vec::as_slice);
        let context = match (current, contexts) {
            ("", [only]) => &only["context"],
            ("", _) => return Err(self.field("current-context", "must be given")),
            (name, _) => self.named("contexts", "context", name)?,
        };
        let cluster = self.named("clusters", "cluster", context["cluster"].as_str().unwrap_or_default())?;
        let user = match context["user"].as_str().unwrap_or_default() {
            "" => &Value::Null,
            name => self.named("users", "user", name)?,
        };
        Ok((cluster.clone(), user.clone()))
    }

    fn named(&self, list: &str, key: &str, name: &str) -> Result<&Value, ConfigError> {
        let mut found = self.config[list].as_array().into_iter().flatten().filter(|one| one["name"] == name);
        found.next().map(|one| &one[key]).ok_or_else(|| self.field(list, format!("there is none with the name \"{name}\"")))
    }

    fn target(&self, cluster: &Value, user: &Value) -> Result<Target, ConfigError> {
        let authorities = self.bytes(cluster, "certificate-authority")?;
        let files = match (self.file(user, "client-certificate"), self.file(user, "client-key")) {
            (Some(chain), Some(key)) => Some(Arc::new(Identity::open(chain, key)?)),
            _ => None,
        };
        let identity: Option<Arc<dyn ResolvesClientCert>> = match &files {
            Some(files) => Some(files.clone()),
            None => match (self.bytes(user, "client-certificate")?, self.bytes(user, "client-key")?) {
                (None, None) => None,
                (Some(chain), Some(key)) => {
                    Some(Arc::new(SingleCertAndKey::from(identity::pair(&chain, &key, |part, why| self.field(part, why))?)))
                }
                _ => return Err(self.field("users", "client-certificate and client-key are given together or not at all")),
            },
        };
        let insecure = cluster["insecure-skip-tls-verify"] == true;
        let trust = Trust { authorities: authorities.as_deref(), insecure, identity };
        let server = cluster["server"].as_str().unwrap_or_default();
        let target = Target::of_url(server, &format!("{}: server", self.at), trust)?;
        let target = match cluster["tls-server-name"].as_str() {
            Some(name) => target.with_server_name(name, &format!("{}: tls-server-name", self.at))?,
            None => target,
        };
        Ok(target.with_authorization(self.authorization(user)?).with_identity(files))
    }

    fn authorization(&self, user: &Value) -> Result<Authorization, ConfigError> {
        for unsupported in ["exec", "auth-provider"] {
            if !user[unsupported].is_null() {
                return Err(
                    self.field(unsupported, "is not supported; use a client certificate, token, tokenFile or username and password")
                );
            }
        }
        let text = |key: &str| user[key].as_str().filter(|text| !text.is_empty());
        if let Some(path) = text("tokenFile") {
            return Ok(Authorization::File(TokenFile::new(self.path(path))));
        }
        if let Some(token) = text("token") {
            return bearer(token).map(Authorization::Given).ok_or_else(|| self.field("token", "cannot stand in a header"));
        }
        let (Some(name), Some(password)) = (text("username"), text("password")) else { return Ok(Authorization::None) };
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).map_err(|error| self.field("password", error))?;
        value.set_sensitive(true);
        Ok(Authorization::Given(value))
    }

    /// What stands in `<key>-data` in base64, or in the file that `<key>` names.
    fn bytes(&self, part: &Value, key: &str) -> Result<Option<Vec<u8>>, ConfigError> {
        if let Some(data) = part[format!("{key}-data")].as_str().filter(|data| !data.is_empty()) {
            let decoded = base64::engine::general_purpose::STANDARD.decode(data);
            return decoded.map(Some).map_err(|error| self.field(&format!("{key}-data"), error));
        }
        let Some(path) = self.file(part, key) else { return Ok(None) };
        fs::read(&path).map(Some).map_err(|source| ConfigError::Read { path, source })
    }

    /// The file that `key` names, unless the data stands there too, which comes first.
    fn file(&self, part: &Value, key: &str) -> Option<PathBuf> {
        let given = part[format!("{key}-data")].as_str().is_some_and(|data| !data.is_empty());
        part[key].as_str().filter(|path| !path.is_empty() && !given).map(|path| self.path(path))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }
}
