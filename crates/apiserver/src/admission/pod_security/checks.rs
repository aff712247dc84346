//! The checks of the Pod Security Standards, worded as upstream words them (pod-security-admission, policy). Which of them apply to a pod is said in
//! [`super::standards`].

use serde_json::Value;

/// What of a pod a standard does not allow.
pub(super) struct Fault {
    pub(super) reason: &'static str,
    detail: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.detail)
    }
}

pub(super) struct Pod<'a> {
    pub(super) spec: &'a Value,
    pub(super) annotations: Option<&'a Value>,
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
/// Sysctls of the pod's own namespaces; the standards of 1.27, 1.29 and 1.32 each know more of them.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
/// The standard of 1.31 knows the last.
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// Volumes that hold nothing of the node.
const VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Before 1.19 seccomp profiles were named so.
pub(super) const SECCOMP_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

type Checked = Option<Fault>;

fn fault(reason: &'static str, detail: String) -> Checked {
    Some(Fault { reason, detail })
}

impl Pod<'_> {
    /// Init, ordinary and ephemeral containers alike.
    fn containers(&self) -> impl Iterator<Item = &Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(|list| self.spec[list].as_array().into_iter().flatten())
    }

    fn context(&self) -> &Value {
        &self.spec["securityContext"]
    }

    fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let annotations = self.annotations.and_then(Value::as_object).into_iter().flatten();
        annotations.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
    }

    /// It runs where most of what is checked here does not exist.
    pub(super) fn is_for_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Its root is nobody on the node (KEP-127).
    pub(super) fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// `container "a"`, `containers "a", "b"`; `None` where none has the fault.
    fn which(&self, faulty: impl Fn(&Value) -> bool) -> Option<String> {
        let names: Vec<&str> = self.containers().filter(|container| faulty(container)).map(name).collect();
        listed("container", &names)
    }

    /// `pod`, `container "a"`, or both joined, whose security context has the fault.
    fn setters(&self, faulty: impl Fn(&Value) -> bool) -> Option<String> {
        let pod = faulty(self.context()).then(|| "pod".to_owned());
        let containers = self.which(|container| faulty(&container["securityContext"]));
        let setters: Vec<String> = pod.into_iter().chain(containers).collect();
        (!setters.is_empty()).then(|| setters.join(" and "))
    }

    /// What the pod's and its containers' security contexts say of something, each word once, in order.
    fn words<'a>(&'a self, of: impl Fn(&'a Value) -> Vec<&'a str>) -> Vec<&'a str> {
        let contexts = self.containers().map(|container| &container["securityContext"]);
        let mut words: Vec<&str> = std::iter::once(self.context()).chain(contexts).flat_map(of).collect();
        words.sort_unstable();
        words.dedup();
        words
    }

    pub(super) fn escalation(&self) -> Checked {
        let which = self.which(|container| container["securityContext"]["allowPrivilegeEscalation"] != false)?;
        fault("allowPrivilegeEscalation != false", format!("{which} must set securityContext.allowPrivilegeEscalation=false"))
    }

    pub(super) fn apparmor(&self) -> Checked {
        fn bad(context: &Value) -> Vec<&str> {
            let ty = context["appArmorProfile"]["type"].as_str();
            ty.filter(|ty| !matches!(*ty, "RuntimeDefault" | "Localhost")).into_iter().collect()
        }
        let allowed = |value: &str| matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
        let annotations = self.annotations().filter(|(key, value)| key.starts_with(APPARMOR_ANNOTATION) && !allowed(value));
        let mut annotations: Vec<String> = annotations.map(|(key, value)| format!("{key}={value:?}")).collect();
        annotations.sort();
        let mut setters: Vec<String> = self.setters(|context| !bad(context).is_empty()).into_iter().collect();
        if !annotations.is_empty() {
            setters.push(plural("annotation", annotations.len()));
        }
        if setters.is_empty() {
            return None;
        }
        let mut values: Vec<String> = self.words(bad).into_iter().map(str::to_owned).collect();
        values.extend(annotations);
        let reason = if values.len() == 1 { "forbidden AppArmor profile" } else { "forbidden AppArmor profiles" };
        // Upstream puts quotes around what has quotes already.
        let values: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
        fault(reason, format!("{} must not set AppArmor profile type to {}", setters.join(" and "), values.join(", ")))
    }

    pub(super) fn capabilities(&self) -> Checked {
        fault("non-default capabilities", self.added_beyond(&CAPABILITIES)?)
    }

    fn added_beyond(&self, allowed: &[&str]) -> Option<String> {
        let added = |container: &Value| -> Vec<String> {
            let list = container["securityContext"]["capabilities"]["add"].as_array();
            let list = list.into_iter().flatten().filter_map(Value::as_str);
            list.filter(|name| !allowed.contains(name)).map(str::to_owned).collect()
        };
        let which = self.which(|container| !added(container).is_empty())?;
        let mut names: Vec<String> = self.containers().flat_map(added).collect();
        names.sort();
        names.dedup();
        Some(format!("{which} must not include {} in securityContext.capabilities.add", quoted(&names)))
    }

    pub(super) fn capabilities_dropped(&self) -> Checked {
        let drops_all = |container: &Value| {
            let list = container["securityContext"]["capabilities"]["drop"].as_array();
            list.is_some_and(|list| list.iter().any(|name| name == "ALL"))
        };
        let kept = self.which(|container| !drops_all(container));
        let kept = kept.map(|which| format!("{which} must set securityContext.capabilities.drop=[\"ALL\"]"));
        let parts: Vec<String> = kept.into_iter().chain(self.added_beyond(&["NET_BIND_SERVICE"])).collect();
        if parts.is_empty() {
            return None;
        }
        fault("unrestricted capabilities", parts.join("; "))
    }

    pub(super) fn host_namespaces(&self) -> Checked {
        let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| self.spec[*field] == true);
        let parts: Vec<String> = set.map(|field| format!("{field}=true")).collect();
        if parts.is_empty() { None } else { fault("host namespaces", parts.join(", ")) }
    }

    pub(super) fn host_paths(&self) -> Checked {
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let names: Vec<&str> = volumes.filter(|volume| volume.get("hostPath").is_some()).map(name).collect();
        fault("hostPath volumes", listed("volume", &names)?)
    }

    pub(super) fn host_ports(&self) -> Checked {
        let ports = |container: &Value| -> Vec<String> {
            let ports = container["ports"].as_array().into_iter().flatten();
            ports.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).map(|port| port.to_string()).collect()
        };
        let which = self.which(|container| !ports(container).is_empty())?;
        let mut numbers: Vec<String> = self.containers().flat_map(ports).collect();
        numbers.sort();
        numbers.dedup();
        fault("hostPort", format!("{which} {} {} {}", uses(&which), plural("hostPort", numbers.len()), numbers.join(", ")))
    }

    /// A probe to another host makes the node a proxy.
    pub(super) fn host_probes(&self) -> Checked {
        fn hosts(container: &Value) -> Vec<String> {
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
            let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
            let actions = probes.into_iter().chain(hooks).flat_map(|action| [&action["httpGet"]["host"], &action["tcpSocket"]["host"]]);
            actions.filter_map(Value::as_str).filter(|host| !host.is_empty()).map(str::to_owned).collect()
        }
        let which = self.which(|container| !hosts(container).is_empty())?;
        let mut all: Vec<String> = self.containers().flat_map(hosts).collect();
        all.sort();
        all.dedup();
        let what = plural("probe or lifecycle host", all.len());
        fault("probe or lifecycle host", format!("{which} {} {what} {}", uses(&which), quoted(&all)))
    }

    pub(super) fn privileged(&self) -> Checked {
        let which = self.which(|container| container["securityContext"]["privileged"] == true)?;
        fault("privileged", format!("{which} must not set securityContext.privileged=true"))
    }

    pub(super) fn proc_mount(&self) -> Checked {
        let bad =
            |context: &'_ Value| -> Option<String> { context["procMount"].as_str().filter(|mount| *mount != "Default").map(str::to_owned) };
        let which = self.which(|container| bad(&container["securityContext"]).is_some())?;
        let mut mounts: Vec<String> = self.containers().filter_map(|container| bad(&container["securityContext"])).collect();
        mounts.sort();
        mounts.dedup();
        fault("procMount", format!("{which} must not set securityContext.procMount to {}", quoted(&mounts)))
    }

    pub(super) fn volumes(&self) -> Checked {
        fn kind(volume: &Value) -> Option<&str> {
            let mut fields = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).filter(|key| *key != "name");
            fields.find(|key| !VOLUMES.contains(key))
        }
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let bad: Vec<&Value> = volumes.filter(|volume| kind(volume).is_some()).collect();
        let names: Vec<&str> = bad.iter().map(|volume| name(volume)).collect();
        let which = listed("volume", &names)?;
        let mut kinds: Vec<&str> = bad.iter().filter_map(|volume| kind(volume)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let what = plural("restricted volume type", kinds.len());
        fault("restricted volume types", format!("{which} {} {what} {}", uses(&which), quoted(&kinds)))
    }

    /// The container's word counts before the pod's; but who says no is told first, be it the pod.
    pub(super) fn non_root(&self) -> Checked {
        let reason = "runAsNonRoot != true";
        if let Some(setters) = self.setters(|context| context["runAsNonRoot"] == false) {
            return fault(reason, format!("{setters} must not set securityContext.runAsNonRoot=false"));
        }
        if self.context()["runAsNonRoot"] == true {
            return None;
        }
        let which = self.which(|container| container["securityContext"]["runAsNonRoot"].is_null())?;
        fault(reason, format!("pod or {which} must set securityContext.runAsNonRoot=true"))
    }

    pub(super) fn user(&self) -> Checked {
        let setters = self.setters(|context| context["runAsUser"] == 0)?;
        fault("runAsUser=0", format!("{setters} must not set runAsUser=0"))
    }

    pub(super) fn selinux_before_1_31(&self) -> Checked {
        self.selinux_of(&SELINUX_TYPES[..4])
    }

    pub(super) fn selinux(&self) -> Checked {
        self.selinux_of(&SELINUX_TYPES)
    }

    fn selinux_of(&self, types: &[&str]) -> Checked {
        fn field<'a>(context: &'a Value, field: &str) -> &'a str {
            context["seLinuxOptions"][field].as_str().unwrap_or("")
        }
        let sets = |context: &Value, key: &str| !field(context, key).is_empty();
        let bad_type = |context: &Value| !types.contains(&field(context, "type"));
        let setters = self.setters(|context| bad_type(context) || sets(context, "user") || sets(context, "role"))?;
        let bad_types = self.words(|context| if bad_type(context) { vec![field(context, "type")] } else { Vec::new() });
        let mut what = Vec::new();
        if !bad_types.is_empty() {
            what.push(format!("{} {}", plural("type", bad_types.len()), quoted(&bad_types)));
        }
        for key in ["user", "role"] {
            what.extend(self.setters(|context| sets(context, key)).map(|_| format!("{key} may not be set")));
        }
        fault("seLinuxOptions", format!("{setters} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
    }

    pub(super) fn seccomp_annotations(&self) -> Checked {
        let allowed = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
        let keys: Vec<String> = self.containers().map(|container| format!("{SECCOMP_CONTAINER_ANNOTATION}{}", name(container))).collect();
        let ours = |key: &str| key == SECCOMP_ANNOTATION || keys.iter().any(|own| own == key);
        let bad = self.annotations().filter(|(key, value)| ours(key) && !allowed(value));
        let mut bad: Vec<String> = bad.map(|(key, value)| format!("{key}={value:?}")).collect();
        bad.sort();
        if bad.is_empty() {
            return None;
        }
        fault("seccompProfile", format!("forbidden {} {}", plural("annotation", bad.len()), bad.join(", ")))
    }

    pub(super) fn seccomp_off(&self) -> Checked {
        let setters = self.setters(|context| !bad_seccomp(context).is_empty())?;
        let types = quoted(&self.words(bad_seccomp));
        fault("seccompProfile", format!("{setters} must not set securityContext.seccompProfile.type to {types}"))
    }

    pub(super) fn seccomp(&self) -> Checked {
        let off = self.seccomp_off();
        if off.is_some() || !self.context()["seccompProfile"].is_null() {
            return off;
        }
        let which = self.which(|container| container["securityContext"]["seccompProfile"].is_null())?;
        fault(
            "seccompProfile",
            format!("pod or {which} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""),
        )
    }

    pub(super) fn sysctls_before_1_27(&self) -> Checked {
        self.sysctls_of(&SYSCTLS[..5])
    }

    pub(super) fn sysctls_before_1_29(&self) -> Checked {
        self.sysctls_of(&SYSCTLS[..6])
    }

    pub(super) fn sysctls_before_1_32(&self) -> Checked {
        self.sysctls_of(&SYSCTLS[..10])
    }

    pub(super) fn sysctls(&self) -> Checked {
        self.sysctls_of(&SYSCTLS)
    }

    fn sysctls_of(&self, allowed: &[&str]) -> Checked {
        let sysctls = self.context()["sysctls"].as_array().into_iter().flatten();
        let names: Vec<&str> = sysctls.map(name).filter(|name| !allowed.contains(name)).collect();
        if names.is_empty() { None } else { fault("forbidden sysctls", names.join(", ")) }
    }

    pub(super) fn windows_host_process(&self) -> Checked {
        let setters = self.setters(|context| context["windowsOptions"]["hostProcess"] == true)?;
        fault("hostProcess", format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"))
    }
}

fn bad_seccomp(context: &Value) -> Vec<&str> {
    let profile = &context["seccompProfile"];
    let ty = profile["type"].as_str().unwrap_or("");
    let bad = !profile.is_null() && !matches!(ty, "RuntimeDefault" | "Localhost");
    if bad { vec![ty] } else { Vec::new() }
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or("")
}

/// `volume "a"`, `volumes "a", "b"`.
fn listed(word: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("{} {}", plural(word, names.len()), quoted(names)))
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// The verb for what [`listed`] listed.
fn uses(which: &str) -> &'static str {
    if which.starts_with("containers ") || which.starts_with("volumes ") { "use" } else { "uses" }
}

fn quoted(words: &[impl AsRef<str>]) -> String {
    words.iter().map(|word| format!("{:?}", word.as_ref())).collect::<Vec<_>>().join(", ")
}
