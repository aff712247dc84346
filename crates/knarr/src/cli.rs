//! The command line, as clap reads it. What an option means stands once, here, and is what `--help` prints.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(name = "knarr", version, about = "A complete container platform that speaks the Kubernetes API", after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed while running; the message says what and where
  2  the command line or the configuration file is wrong
  3  this machine cannot do it: not root, a kernel feature or a port is missing
  4  the data directory is in use by a running Knarr
  5  the API server refused or is not there

`knarr exec` ends with the exit code of the command that it ran.";

const REGISTRIES: &str = r#"\
In the file of --config, a section for each registry that is special, by its name in image references:

  registry-auth-file = "/etc/knarr/registry-auth.json"

  [registries."docker.io"]
  mirrors = ["https://mirror.example", "http://10.0.0.1:5000"]   # asked first, in this order

  [registries."registry.example:5000"]
  ca-file = "/etc/knarr/registry-ca.pem"                         # instead of the system's authorities

  [registries."registry.lan"]
  plain-http = true                                              # no TLS; on the loopback found out by itself"#;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a server and a node; pods of an earlier start are adopted as they run
    Up(Box<UpOptions>),
    /// Stop Knarr and its pods, and remove all that it made on this machine except its data
    Down(Place),
    /// As down, and delete the data directory too
    Purge(Purge),
    /// Show components, nodes, pods and what is wrong
    Status(Place),
    /// Look after the images of this node
    Image {
        #[command(subcommand)]
        command: ImageCommand,
        #[command(flatten)]
        place: Place,
    },
    /// Look after the encryption of Secrets on disk
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
        #[command(flatten)]
        place: Place,
    },
    /// List the cluster's certificates, or renew them
    Certs {
        #[command(subcommand)]
        command: Option<CertsCommand>,
        #[command(flatten)]
        place: Place,
    },
    /// Look after the keys that sign the tokens of service accounts
    Tokens {
        #[command(subcommand)]
        command: TokensCommand,
        #[command(flatten)]
        place: Place,
    },
    /// Show objects: `get pods`, `get deployment/web -o yaml`
    Get(Get),
    /// Create or change objects from files (server-side apply)
    Apply(Apply),
    /// Delete objects
    Delete(Delete),
    /// Print the logs of a pod
    Logs(Logs),
    /// Run a command in a container
    Exec(Exec),
    /// Wait until objects have a condition, or are gone
    Wait(Wait),
    /// The web server in the pods of `knarr up --demo`
    #[command(hide = true)]
    DemoWeb,
}

/// Where the Knarr is that a command is about.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// Where Knarr keeps everything
    #[arg(long, global = true, default_value = crate::config::DATA_DIR_DEFAULT, env = "KNARR_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// The kubeconfig to use; by default <data-dir>/admin.kubeconfig
    #[arg(long, global = true, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// Every option can also stand in the file that `--config` names, under the same name without the dashes; the command line wins.
#[derive(Args, Clone, Debug, Default, serde::Deserialize)]
#[command(after_long_help = REGISTRIES)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct UpOptions {
    /// Where Knarr keeps everything [default: /var/lib/knarr]
    #[arg(long, env = "KNARR_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address and port of the API server; may be repeated [default: [::]:6443 or 0.0.0.0:6443]
    #[arg(long)]
    #[serde(default)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Name of this node [default: the host's name]
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Addresses of pods in the whole cluster [default: 10.42.0.0/16]
    #[arg(long)]
    pub(crate) pod_cidr: Option<ipnet::IpNet>,
    /// Addresses of Services [default: 10.43.0.0/16]
    #[arg(long)]
    pub(crate) service_cidr: Option<ipnet::IpNet>,
    /// Domain of the cluster's names [default: cluster.local]
    #[arg(long)]
    pub(crate) cluster_domain: Option<String>,
    /// A file with options (TOML)
    #[arg(long)]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Further names or addresses for the API server's certificate; may be repeated
    #[arg(long)]
    #[serde(default)]
    pub(crate) tls_san: Vec<String>,
    /// When ready, start a small web site to look at; it needs no network and no image from outside
    #[arg(long)]
    #[serde(default)]
    pub(crate) demo: bool,
    /// Docker config.json with credentials for every pull of this node; read at each pull [default: <data-dir>/registry-auth.json]
    #[arg(long)]
    pub(crate) registry_auth_file: Option<PathBuf>,
    /// Mirrors, plain HTTP and authorities of registries: sections `[registries."host:port"]` with `mirrors`, `plain-http`, `ca-file`.
    #[arg(skip)]
    #[serde(default)]
    pub(crate) registries: std::collections::BTreeMap<String, knarr_runtime::Registry>,
    /// What is encrypted on disk, and with which keys: an EncryptionConfiguration (apiserver.config.k8s.io/v1), followed while Knarr runs
    /// [default: Secrets, with a key of the cluster's own in <data-dir>/pki/encryption.json]
    #[arg(long)]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// A file with an AuthenticationConfiguration: token issuers (OpenID Connect) and where anonymous callers are let in; followed as it changes
    #[arg(long)]
    pub(crate) authentication_config: Option<PathBuf>,
    /// A file with an AuthorizationConfiguration: who decides what callers may do, in which order; followed as it changes [default: Node, RBAC]
    #[arg(long)]
    pub(crate) authorization_config: Option<PathBuf>,
    /// A file with an AdmissionConfiguration: defaults and exemptions of PodSecurity, and plug-ins that are off unless it names them
    #[arg(long)]
    pub(crate) admission_control_config_file: Option<PathBuf>,
    /// URL that service account tokens name as their issuer, where relying parties find their keys; of several, tokens of the later ones are
    /// accepted and no longer issued [default: https://kubernetes.default.svc.<cluster-domain>]
    #[arg(long)]
    #[serde(default)]
    pub(crate) service_account_issuer: Vec<String>,
    /// A kubeconfig for a service that knows tokens, asked by TokenReview
    #[arg(long)]
    pub(crate) authentication_token_webhook_config_file: Option<PathBuf>,
    /// Seconds for which that service's answers are remembered [default: 120]
    #[arg(long)]
    pub(crate) authentication_token_webhook_cache_seconds: Option<u64>,
    /// Authorities (PEM) of authenticating proxies [default: the cluster's own, <data-dir>/pki/front-proxy-ca.crt]
    #[arg(long)]
    pub(crate) requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that a proxy's certificate may have [default: front-proxy-client]
    #[arg(long, value_delimiter = ',')]
    #[serde(default)]
    pub(crate) requestheader_allowed_names: Vec<String>,
    /// Headers in which a proxy names the user [default: X-Remote-User]
    #[arg(long, value_delimiter = ',')]
    #[serde(default)]
    pub(crate) requestheader_username_headers: Vec<String>,
    /// Headers in which a proxy gives the user's uid [default: X-Remote-Uid]
    #[arg(long, value_delimiter = ',')]
    #[serde(default)]
    pub(crate) requestheader_uid_headers: Vec<String>,
    /// Headers in which a proxy names the user's groups [default: X-Remote-Group]
    #[arg(long, value_delimiter = ',')]
    #[serde(default)]
    pub(crate) requestheader_group_headers: Vec<String>,
    /// Prefixes of the headers in which a proxy tells more of the user [default: X-Remote-Extra-]
    #[arg(long, value_delimiter = ',')]
    #[serde(default)]
    pub(crate) requestheader_extra_headers_prefix: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) audit: AuditOptions,
    /// What is logged: error, warn, info, debug, trace, or a filter as in RUST_LOG [default: warn]
    #[arg(long, env = "KNARR_LOG")]
    pub(crate) log: Option<String>,
}

/// Under upstream's names.
#[derive(Args, Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AuditOptions {
    /// Which requests are recorded, and how much of them: an audit policy (audit.k8s.io/v1). Bodies of Secrets and tokens never are
    /// [default: what people do and what the system's parts write, without bodies]
    #[arg(long)]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// Where requests are recorded; `-` is standard output [default: <data-dir>/audit/audit.log]
    #[arg(long)]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Megabytes at which that file is rotated [default: 100]
    #[arg(long)]
    pub(crate) audit_log_maxsize: Option<u64>,
    /// Rotated files that are kept, 0 for all [default: 10]
    #[arg(long)]
    pub(crate) audit_log_maxbackup: Option<usize>,
    /// Days after which rotated files are deleted, 0 for never [default: 30]
    #[arg(long)]
    pub(crate) audit_log_maxage: Option<u64>,
    /// A kubeconfig file naming a server that events are sent to as well, in batches
    #[arg(long)]
    pub(crate) audit_webhook_config_file: Option<PathBuf>,
}

impl AuditOptions {
    /// What stands here, and `other` where nothing does.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            audit_policy_file: self.audit_policy_file.or(other.audit_policy_file),
            audit_log_path: self.audit_log_path.or(other.audit_log_path),
            audit_log_maxsize: self.audit_log_maxsize.or(other.audit_log_maxsize),
            audit_log_maxbackup: self.audit_log_maxbackup.or(other.audit_log_maxbackup),
            audit_log_maxage: self.audit_log_maxage.or(other.audit_log_maxage),
            audit_webhook_config_file: self.audit_webhook_config_file.or(other.audit_webhook_config_file),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Purge {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Fetch images from their registries
    Pull {
        #[arg(required = true)]
        images: Vec<String>,
        /// Docker config.json with credentials, asked before those of `knarr up --registry-auth-file`
        #[arg(long)]
        auth_file: Option<PathBuf>,
    },
    /// Take in the images of a tar archive (docker save, or an OCI layout; may be compressed)
    Import {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Write an image to a tar archive that Docker, containerd and skopeo read
    Export { image: String, archive: PathBuf },
    /// Show the images of this node
    List,
    /// Forget names of images; content that no other image needs is deleted. Refused where containers use the image
    Remove {
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Show every certificate: whose it is, what it is good for, who uses it, how long, and what renews it
    List,
    /// Renew now what Knarr otherwise renews when a third of its life is left; open connections go on
    Renew {
        /// One of those that the list names [default: all]
        name: Option<String>,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Show the keys
    Status,
    /// Publish a new key, and sign with it in an hour, when relying parties have read of it; tokens of older keys stay good
    Rotate {
        /// Sign with it at once, though relying parties may refuse new tokens for an hour: the old key may be in wrong hands
        #[arg(long)]
        now: bool,
    },
    /// Forget the older keys: tokens that they signed are refused from now on. Refused until pods have tokens of the new key, a day and a half after
    /// it began to sign
    Forget {
        /// Forget them although pods may still have such tokens, which then cannot reach the API server
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Show what is sealed with which key
    Status,
    /// Make a new key, seal everything anew while Knarr serves, forget the old key. With a configuration of your own: seal what is sealed
    /// otherwise than its first provider would
    Rotate,
    /// Show who read and wrote which Secrets, by the audit log
    Report(SecretsReport),
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SecretsReport {
    /// Only what concerns this Secret: lists and watches, which show all of them, included
    pub(crate) name: Option<String>,
    /// Only of this namespace
    #[arg(long, short)]
    pub(crate) namespace: Option<String>,
    /// Only of the last time: `1h`, `7d`
    #[arg(long, value_parser = duration)]
    pub(crate) since: Option<Duration>,
    /// The log, where `knarr up` got another [default: <data-dir>/audit/audit.log]
    #[arg(long)]
    pub(crate) audit_log_path: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Namespace {
    /// The namespace
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// All namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Wide,
    Yaml,
    Json,
    Name,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// `pods`, `pods web`, `deployment/web`, `po,svc`
    #[arg(required = true)]
    pub(crate) what: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    #[arg(long, short)]
    pub(crate) output: Option<Output>,
    /// Only objects with these labels: `app=web,tier!=cache`
    #[arg(long, short = 'l')]
    pub(crate) selector: Option<String>,
    /// Only objects with these fields: `status.phase=Running`
    #[arg(long)]
    pub(crate) field_selector: Option<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args, Debug)]
pub(crate) struct Apply {
    /// Files or directories with YAML or JSON; `-` is standard input
    #[arg(long = "filename", short, required = true)]
    pub(crate) filenames: Vec<PathBuf>,
    /// Take fields over from whoever else applied them
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// `pod web`, `deployment/web svc/web`
    pub(crate) what: Vec<String>,
    /// The objects that these files name
    #[arg(long = "filename", short)]
    pub(crate) filenames: Vec<PathBuf>,
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// Return before they are gone
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    pub(crate) pod: String,
    #[arg(long, short)]
    pub(crate) container: Option<String>,
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// Go on with what comes
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Of the container before its last restart
    #[arg(long, short)]
    pub(crate) previous: bool,
    /// Only the last lines
    #[arg(long)]
    pub(crate) tail: Option<i64>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args, Debug)]
pub(crate) struct Exec {
    pub(crate) pod: String,
    #[arg(long, short)]
    pub(crate) container: Option<String>,
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// Give it a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// `pod/web`, `deployment web`
    #[arg(required = true)]
    pub(crate) what: Vec<String>,
    /// `condition=Ready`, `condition=Available`, `delete`, `jsonpath`-free on purpose: use kubectl for that
    #[arg(long = "for", required = true)]
    pub(crate) until: String,
    /// Give up after this long: `30s`, `5m`
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a duration; write 30s, 5m, 1h or 7d"))?;
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("{unit:?} is not a unit of time; write s, m, h or d")),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| format!("{text} is longer than can be reckoned with"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2d"), Ok(Duration::from_hours(48)));
        assert!(duration("5 minutes").unwrap_err().contains("write s, m, h or d"));
        assert!(duration("999999999999999999d").unwrap_err().contains("longer than"));
    }
}
