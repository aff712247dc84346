//! Pod Security Standards: what pods of a namespace may do to their node.
//!
//! A namespace says by labels which level it enforces and of which it warns. Pods beyond the enforced level are refused; for those beyond the other,
//! and for workloads whose template is beyond either, the client gets a warning. A namespace that says nothing enforces nothing and, unlike
//! upstream, warns of what is beyond `baseline`. The checks are those of the newest version, whatever version the labels name.

use std::fmt::Write;

use knarr_api::status::Status;
use knarr_api::{FieldError, Object, status};
use knarr_store::Snapshot;
use serde_json::Value;

use super::{Chain, Operation, Request, stored};

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";
/// Where the system's own pods run; they need the node, and a warning for each would teach people to overlook warnings.
const SYSTEM: &str = "kube-system";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

pub(super) fn check(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.is("", "namespaces") {
        return check_labels(request);
    }
    let pods = request.is_of("", "pods");
    let changes = match request.operation {
        Operation::Create => request.subresource.is_empty(),
        Operation::Update => matches!(request.subresource, "" | "ephemeralcontainers"),
        _ => false,
    };
    let Some(path) = template(request).filter(|_| changes) else { return Ok(()) };
    let (Some(spec), annotations) =
        (request.object.get(&[path, &["spec"]].concat()), request.object.get(&[path, &["metadata", "annotations"]].concat()))
    else {
        return Ok(());
    };
    let Some(namespace) = stored(snapshot, "core/namespaces", "", request.namespace) else { return Ok(()) };
    let pod = Pod { spec, annotations };
    let enforced = level(&namespace, "enforce").unwrap_or(Level::Privileged);
    let default = if request.namespace == SYSTEM { Level::Privileged } else { Level::Baseline };
    let warned = level(&namespace, "warn").unwrap_or(default);
    let words = |level: Level, mode: &str| {
        let faults = pod.faults(level);
        let version = namespace.label(&format!("{LABEL_PREFIX}{mode}-version")).unwrap_or("latest").to_owned();
        (!faults.is_empty()).then(|| format!("violate PodSecurity \"{}:{version}\": {}", level.as_str(), faults.join(", ")))
    };
    // An update that changes nothing of the spec is not held up by rules that came later.
    let same = request.old.is_some_and(|old| old.get(&["spec"]) == request.object.get(&["spec"]));
    let refused = words(enforced, "enforce").filter(|_| pods && !same);
    let warning = words(warned.max(if pods { Level::Privileged } else { enforced }), "warn").filter(|_| !same);
    if let Some(words) = refused {
        return Err(request.forbidden(&words.replacen("violate", "violates", 1)));
    }
    request.warnings.extend(warning.map(|words| format!("would {words}")));
    Ok(())
}

/// Where the pod template of a kind is; an empty path for pods themselves.
fn template(request: &Request<'_>) -> Option<&'static [&'static str]> {
    match (&*request.kind.group, &*request.kind.resource) {
        ("", "pods") => Some(&[]),
        ("", "replicationcontrollers") | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") | ("batch", "jobs") => {
            Some(&["spec", "template"])
        }
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        ("", "podtemplates") => Some(&["template"]),
        _ => None,
    }
}

fn level(namespace: &Object, mode: &str) -> Option<Level> {
    // A label that is no level was refused when it was set.
    Level::parse(namespace.label(&format!("{LABEL_PREFIX}{mode}"))?)
}

fn check_labels(request: &Request<'_>) -> Result<(), Status> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let mut errors = Vec::new();
    for (key, value) in request.object.labels() {
        let mode = key.strip_prefix(LABEL_PREFIX);
        if mode.is_some_and(|mode| ["enforce", "audit", "warn"].contains(&mode)) && Level::parse(value).is_none() {
            let path = format!("metadata.labels[{key}]");
            errors.push(FieldError::invalid(path, &value.into(), "must be one of privileged, baseline, restricted"));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(status::invalid("", "Namespace", request.object.name(), &errors)),
    }
}

struct Pod<'a> {
    spec: &'a Value,
    annotations: Option<&'a Value>,
}

/// Capabilities that containers have anyway.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls of the pod's own namespaces.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// Volumes that hold nothing of the node.
const VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

impl Pod<'_> {
    /// What is beyond `level`, worded as upstream words it and in its order, by the checks' names.
    fn faults(&self, level: Level) -> Vec<String> {
        let (baseline, restricted) = (level >= Level::Baseline, level >= Level::Restricted);
        let mut faults = Vec::new();
        let mut add = |applies: bool, fault: &dyn Fn() -> Option<String>| faults.extend(applies.then(fault).flatten());
        add(restricted, &|| self.escalation());
        add(baseline, &|| self.apparmor());
        add(baseline && !restricted, &|| self.capabilities());
        add(restricted, &|| self.capabilities_dropped());
        add(baseline, &|| self.host_namespaces());
        add(baseline && !restricted, &|| self.host_paths());
        add(baseline, &|| self.host_ports());
        add(baseline, &|| self.host_probes());
        add(baseline, &|| self.privileged());
        add(baseline, &|| self.proc_mount());
        add(restricted, &|| self.volumes());
        add(restricted, &|| self.non_root());
        add(restricted, &|| self.user());
        add(baseline, &|| self.selinux());
        add(baseline && !restricted, &|| self.seccomp_off());
        add(restricted, &|| self.seccomp());
        add(baseline, &|| self.sysctls());
        add(baseline, &|| self.windows());
        faults
    }

    /// Init, ordinary and ephemeral containers alike.
    fn containers(&self) -> impl Iterator<Item = &Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(|list| self.spec[list].as_array().into_iter().flatten())
    }

    fn context(&self) -> &Value {
        &self.spec["securityContext"]
    }

    /// `container "a"`, `containers "a", "b"`; `None` where none has the fault.
    fn which(&self, faulty: impl Fn(&Value) -> bool) -> Option<String> {
        let names: Vec<&str> = self.containers().filter(|container| faulty(container)).map(name).collect();
        listed("container", &names)
    }

    fn escalation(&self) -> Option<String> {
        let which = self.which(|container| container["securityContext"]["allowPrivilegeEscalation"] != false)?;
        Some(format!("allowPrivilegeEscalation != false ({which} must set securityContext.allowPrivilegeEscalation=false)"))
    }

    fn apparmor(&self) -> Option<String> {
        let bad =
            |context: &Value| context["appArmorProfile"]["type"].as_str().is_some_and(|ty| !matches!(ty, "RuntimeDefault" | "Localhost"));
        let mut parts = Vec::new();
        if bad(self.context()) {
            parts.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
        }
        parts.extend(
            self.which(|container| bad(&container["securityContext"]))
                .map(|which| format!("{which} must not set AppArmor profile type to \"Unconfined\"")),
        );
        let annotations = self.annotations.and_then(Value::as_object).into_iter().flatten();
        for (key, value) in annotations.filter(|(key, _)| key.starts_with(APPARMOR_ANNOTATION)) {
            let value = value.as_str().unwrap_or("");
            if !matches!(value, "" | "runtime/default") && !value.starts_with("localhost/") {
                parts.push(format!("annotation \"{key}={value}\""));
            }
        }
        worded("forbidden AppArmor profile", &parts)
    }

    fn capabilities(&self) -> Option<String> {
        self.added_beyond("non-default capabilities", &CAPABILITIES)
    }

    fn added_beyond(&self, title: &str, allowed: &[&str]) -> Option<String> {
        let added = |container: &Value| -> Vec<String> {
            let list = container["securityContext"]["capabilities"]["add"].as_array();
            let list = list.into_iter().flatten().filter_map(Value::as_str);
            list.filter(|name| !allowed.contains(name)).map(str::to_owned).collect()
        };
        let which = self.which(|container| !added(container).is_empty())?;
        let mut names: Vec<String> = self.containers().flat_map(added).map(|name| format!("{name:?}")).collect();
        names.sort();
        names.dedup();
        Some(format!("{title} ({which} must not include {} in securityContext.capabilities.add)", names.join(", ")))
    }

    fn capabilities_dropped(&self) -> Option<String> {
        let drops_all = |container: &Value| {
            let list = container["securityContext"]["capabilities"]["drop"].as_array();
            list.is_some_and(|list| list.iter().any(|name| name == "ALL"))
        };
        let mut parts = Vec::new();
        parts.extend(
            self.which(|container| !drops_all(container))
                .map(|which| format!("{which} must set securityContext.capabilities.drop=[\"ALL\"]")),
        );
        if let Some(added) = self.added_beyond("", &["NET_BIND_SERVICE"]) {
            parts.push(added.trim_start_matches(" (").trim_end_matches(')').to_owned());
        }
        (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
    }

    fn host_namespaces(&self) -> Option<String> {
        let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| self.spec[*field] == true);
        let parts: Vec<String> = set.map(|field| format!("{field}=true")).collect();
        worded("host namespaces", &parts)
    }

    fn host_paths(&self) -> Option<String> {
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let names: Vec<&str> = volumes.filter(|volume| volume.get("hostPath").is_some()).map(name).collect();
        Some(format!("hostPath volumes ({})", listed("volume", &names)?))
    }

    fn host_ports(&self) -> Option<String> {
        let ports = |container: &Value| -> Vec<i64> {
            let ports = container["ports"].as_array().into_iter().flatten();
            ports.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect()
        };
        let which = self.which(|container| !ports(container).is_empty())?;
        let mut numbers: Vec<i64> = self.containers().flat_map(ports).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let word = if numbers.len() == 1 { "hostPort" } else { "hostPorts" };
        let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
        let uses = if which.starts_with("containers") { "use" } else { "uses" };
        Some(format!("hostPort ({which} {uses} {word} {})", numbers.join(", ")))
    }

    /// A probe to another host makes the node a proxy.
    fn host_probes(&self) -> Option<String> {
        let has_host = |action: &Value| {
            ["httpGet", "tcpSocket"].iter().any(|kind| action[*kind]["host"].as_str().is_some_and(|host| !host.is_empty()))
        };
        let which = self.which(|container| {
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"].iter().any(|probe| has_host(&container[*probe]));
            probes || ["postStart", "preStop"].iter().any(|hook| has_host(&container["lifecycle"][*hook]))
        })?;
        Some(format!("probe or lifecycle host ({which} must not set host in probes or lifecycle hooks)"))
    }

    fn privileged(&self) -> Option<String> {
        let which = self.which(|container| container["securityContext"]["privileged"] == true)?;
        Some(format!("privileged ({which} must not set securityContext.privileged=true)"))
    }

    fn proc_mount(&self) -> Option<String> {
        let which = self.which(|container| container["securityContext"]["procMount"].as_str().is_some_and(|mount| mount != "Default"))?;
        Some(format!("procMount ({which} must not set securityContext.procMount to \"Unmasked\")"))
    }

    fn volumes(&self) -> Option<String> {
        let kind = |volume: &Value| -> String {
            let fields = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
            fields.filter(|key| *key != "name").find(|key| !VOLUMES.contains(key)).unwrap_or("").to_owned()
        };
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let bad: Vec<&Value> = volumes.filter(|volume| !kind(volume).is_empty()).collect();
        let names: Vec<&str> = bad.iter().map(|volume| name(volume)).collect();
        let which = listed("volume", &names)?;
        let mut kinds: Vec<String> = bad.iter().map(|volume| format!("{:?}", kind(volume))).collect();
        kinds.sort();
        kinds.dedup();
        let (uses, word) = (if names.len() == 1 { "uses" } else { "use" }, if kinds.len() == 1 { "type" } else { "types" });
        Some(format!("restricted volume types ({which} {uses} restricted volume {word} {})", kinds.join(", ")))
    }

    /// The container's word counts before the pod's.
    fn non_root(&self) -> Option<String> {
        let pod = &self.context()["runAsNonRoot"];
        let effective = |container: &Value| match &container["securityContext"]["runAsNonRoot"] {
            Value::Null => pod.clone(),
            own => own.clone(),
        };
        let which = self.which(|container| effective(container) != true)?;
        let who = if *pod == true { which } else { format!("pod or {which}") };
        Some(format!("runAsNonRoot != true ({who} must set securityContext.runAsNonRoot=true)"))
    }

    fn user(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.context()["runAsUser"] == 0 {
            parts.push("pod".to_owned());
        }
        parts.extend(self.which(|container| container["securityContext"]["runAsUser"] == 0));
        (!parts.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", parts.join(" and ")))
    }

    fn selinux(&self) -> Option<String> {
        let bad = |context: &Value| {
            let text = |field: &str| context["seLinuxOptions"][field].as_str().unwrap_or("").to_owned();
            !SELINUX_TYPES.contains(&text("type").as_str()) || !text("user").is_empty() || !text("role").is_empty()
        };
        let mut parts = Vec::new();
        if bad(self.context()) {
            parts.push("pod".to_owned());
        }
        parts.extend(self.which(|container| bad(&container["securityContext"])));
        (!parts.is_empty()).then(|| format!("seLinuxOptions ({} set forbidden securityContext.seLinuxOptions)", parts.join(" and ")))
    }

    fn seccomp_off(&self) -> Option<String> {
        let off = |context: &Value| context["seccompProfile"]["type"] == "Unconfined";
        let mut parts = Vec::new();
        if off(self.context()) {
            parts.push("pod".to_owned());
        }
        parts.extend(self.which(|container| off(&container["securityContext"])));
        (!parts.is_empty())
            .then(|| format!("seccompProfile ({} must not set securityContext.seccompProfile.type to \"Unconfined\")", parts.join(" and ")))
    }

    fn seccomp(&self) -> Option<String> {
        let good = |context: &Value| matches!(context["seccompProfile"]["type"].as_str(), Some("RuntimeDefault" | "Localhost"));
        let unset = |context: &Value| context["seccompProfile"]["type"].is_null();
        let pod = good(self.context());
        let which = self.which(|container| {
            let own = &container["securityContext"];
            !(good(own) || (unset(own) && pod))
        })?;
        let who = if pod { which } else { format!("pod or {which}") };
        Some(format!("seccompProfile ({who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"))
    }

    fn sysctls(&self) -> Option<String> {
        let sysctls = self.context()["sysctls"].as_array().into_iter().flatten();
        let names = sysctls.map(name).filter(|name| !SYSCTLS.contains(name));
        worded("forbidden sysctls", &names.map(str::to_owned).collect::<Vec<_>>())
    }

    fn windows(&self) -> Option<String> {
        let set = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
        let mut parts = Vec::new();
        if set(self.context()) {
            parts.push("pod".to_owned());
        }
        parts.extend(self.which(|container| set(&container["securityContext"])));
        (!parts.is_empty())
            .then(|| format!("hostProcess ({} must not set securityContext.windowsOptions.hostProcess=true)", parts.join(" and ")))
    }
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or("")
}

/// `volume "a"`, `volumes "a", "b"`.
fn listed(word: &str, names: &[&str]) -> Option<String> {
    let mut text = match names.len() {
        0 => return None,
        1 => word.to_owned(),
        _ => format!("{word}s"),
    };
    for (index, name) in names.iter().enumerate() {
        let separator = if index == 0 { " " } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{name:?}");
    }
    Some(text)
}

fn worded(title: &str, parts: &[String]) -> Option<String> {
    (!parts.is_empty()).then(|| format!("{title} ({})", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The faults of a pod with one good container, changed by `spec` and by `context` of its container.
    #[track_caller]
    fn check(level: Level, spec: Value, context: Value, expected: &[&str]) {
        let mut pod = json!({ "containers": [{ "name": "c", "securityContext": context }] });
        for (key, value) in spec.as_object().unwrap() {
            pod[key] = value.clone();
        }
        assert_eq!(Pod { spec: &pod, annotations: None }.faults(level), expected);
    }

    #[test]
    fn baseline_keeps_pods_off_the_node() {
        let check = |spec: Value, context: Value, expected: &[&str]| {
            super::tests::check(Level::Privileged, spec.clone(), context.clone(), &[]);
            super::tests::check(Level::Baseline, spec, context, expected);
        };
        check(json!({}), json!({}), &[]);
        check(json!({ "hostNetwork": true, "hostPID": true }), json!({}), &["host namespaces (hostNetwork=true, hostPID=true)"]);
        check(json!({}), json!({ "privileged": true }), &["privileged (container \"c\" must not set securityContext.privileged=true)"]);
        check(
            json!({}),
            json!({ "capabilities": { "add": ["CHOWN", "SYS_ADMIN"] } }),
            &["non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)"],
        );
        check(
            json!({ "volumes": [{ "name": "v", "hostPath": {} }, { "name": "w", "emptyDir": {} }] }),
            json!({}),
            &["hostPath volumes (volume \"v\")"],
        );
        let ports = json!([{ "name": "a", "ports": [{ "hostPort": 80 }] }, { "name": "b", "ports": [{ "hostPort": 81 }] }]);
        check(json!({ "containers": ports }), json!({}), &["hostPort (containers \"a\", \"b\" use hostPorts 80, 81)"]);
        check(
            json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
            json!({}),
            &["seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")"],
        );
        check(
            json!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }] } }),
            json!({}),
            &["forbidden sysctls (kernel.msgmax)"],
        );
        check(
            json!({}),
            json!({ "procMount": "Unmasked" }),
            &["procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")"],
        );
        check(
            json!({}),
            json!({ "seLinuxOptions": { "type": "spc_t" } }),
            &["seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions)"],
        );
        check(
            json!({}),
            json!({ "appArmorProfile": { "type": "Unconfined" } }),
            &["forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")"],
        );
        // Ephemeral and init containers count (CVE-2023-2728's kind of gap).
        for list in ["initContainers", "ephemeralContainers"] {
            let mut spec = json!({});
            spec[list] = json!([{ "name": "x", "securityContext": { "privileged": true } }]);
            check(spec, json!({}), &["privileged (container \"x\" must not set securityContext.privileged=true)"]);
        }
        let probe = json!([{ "name": "c", "livenessProbe": { "httpGet": { "host": "10.0.0.1" } } }]);
        check(
            json!({ "containers": probe }),
            json!({}),
            &["probe or lifecycle host (container \"c\" must not set host in probes or lifecycle hooks)"],
        );
    }

    #[test]
    fn restricted_wants_four_things_said() {
        check(
            Level::Restricted,
            json!({}),
            json!({}),
            &[
                "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ],
        );
        let good = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "runAsNonRoot": true });
        let pod = json!({ "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } } });
        check(Level::Restricted, pod.clone(), good.clone(), &[]);
        let mut root = good.clone();
        root["runAsUser"] = 0.into();
        check(Level::Restricted, pod.clone(), root, &["runAsUser=0 (container \"c\" must not set runAsUser=0)"]);
        let mut volumes = pod;
        volumes["volumes"] = json!([{ "name": "v", "hostPath": {} }]);
        check(Level::Restricted, volumes, good, &["restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")"]);
    }
}
