//! Credentials in the form of Docker's `config.json` (and its older `.dockercfg`), matched to images as Kubernetes does
//! (pkg/credentialprovider, keyring.go): host by host label with `*`, port by port, path by prefix, the longest key first.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;

/// How to identify to a registry.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Credentials {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// A token for the registry itself (`registrytoken` of a docker config).
    Bearer(String),
    /// A refresh token, traded for access tokens (`identitytoken` of a docker config).
    Identity(String),
}

impl Credentials {
    /// Who, without any secret.
    pub(crate) fn who(&self) -> String {
        match self {
            Credentials::Anonymous => "nobody (no credentials were given)".to_owned(),
            Credentials::Basic { username, .. } => format!("user {username:?}"),
            Credentials::Bearer(_) => "the bearer of a registry token".to_owned(),
            Credentials::Identity(_) => "the bearer of an identity token".to_owned(),
        }
    }
}

/// Says who, never the secret.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.who())
    }
}

/// The credentials of one file.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    /// The longest key first.
    entries: Vec<(Key, Credentials)>,
}

/// The text is no such file. It is not repeated: it holds secrets.
#[derive(Debug, thiserror::Error)]
pub enum LoginsError {
    #[error("not a docker config.json: line {line}, column {column}")]
    Parse { line: usize, column: usize },
    #[error("the credentials for {host:?} are neither username and password, nor a base64 `auth` of user:password, nor a token")]
    Entry { host: String },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase", default)]
struct Login {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    host: String,
    port: String,
    /// With a leading slash, or empty.
    path: String,
}

/// What Docker writes for its own registry.
const DOCKER_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

impl Logins {
    /// `{"auths": {"host": ...}}`, as in `config.json` and `.dockerconfigjson`.
    pub fn parse(text: &[u8]) -> Result<Logins, LoginsError> {
        let file: File = serde_json::from_slice(text).map_err(fault)?;
        Logins::of_entries(file.auths)
    }

    /// `{"host": ...}`, as in `.dockercfg`.
    pub fn parse_legacy(text: &[u8]) -> Result<Logins, LoginsError> {
        Logins::of_entries(serde_json::from_slice(text).map_err(fault)?)
    }

    fn of_entries(file: BTreeMap<String, Login>) -> Result<Logins, LoginsError> {
        let mut entries = Vec::with_capacity(file.len());
        for (host, login) in file {
            // An entry without anything is what `docker login` leaves where a helper holds the password.
            if let Some(credentials) = login.credentials().map_err(|()| LoginsError::Entry { host: host.clone() })? {
                entries.push((Key::parse(&host), credentials));
            }
        }
        entries.sort_by_key(|(key, _)| std::cmp::Reverse((key.path.len(), key.host.len())));
        Ok(Logins { entries })
    }

    /// Those that fit an image, the best first.
    pub fn of(&self, reference: &str) -> Vec<Credentials> {
        match crate::image::whole_name(reference) {
            Some((registry, repository)) => self.of_repository(&registry, &repository),
            None => Vec::new(),
        }
    }

    pub(crate) fn of_repository(&self, registry: &str, repository: &str) -> Vec<Credentials> {
        let wanted = Key::parse(&format!("{registry}/{repository}"));
        let mut found: Vec<Credentials> = Vec::new();
        for (key, credentials) in &self.entries {
            if key.fits(&wanted) && !found.contains(credentials) {
                found.push(credentials.clone());
            }
        }
        found
    }
}

fn fault(error: serde_json::Error) -> LoginsError {
    LoginsError::Parse { line: error.line(), column: error.column() }
}

impl Login {
    fn credentials(self) -> Result<Option<Credentials>, ()> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(self.identitytoken)));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Bearer(self.registrytoken)));
        }
        if !self.auth.is_empty() {
            // With or without padding, as upstream takes both.
            let joined = base64::engine::general_purpose::STANDARD_NO_PAD.decode(self.auth.trim().trim_end_matches('=')).map_err(|_| ())?;
            let joined = String::from_utf8(joined).map_err(|_| ())?;
            let (username, password) = joined.split_once(':').ok_or(())?;
            // Docker pads with zeros in old files.
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Basic { username: username.to_owned(), password }));
        }
        let some = !self.username.is_empty();
        Ok(some.then_some(Credentials::Basic { username: self.username, password: self.password }))
    }
}

impl Key {
    fn parse(text: &str) -> Key {
        let rest = text.trim_start_matches("https://").trim_start_matches("http://");
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
            _ => (authority, ""),
        };
        let host = if DOCKER_NAMES.contains(&host) { "docker.io" } else { host };
        // The API's version is no part of a repository's name.
        let path = ["v1", "v2"]
            .iter()
            .find_map(|version| path.strip_prefix(version).filter(|it| it.is_empty() || it.starts_with('/')))
            .unwrap_or(path);
        let path = path.trim_matches('/');
        Key {
            host: host.to_ascii_lowercase(),
            port: port.to_owned(),
            path: if path.is_empty() { String::new() } else { format!("/{path}") },
        }
    }

    fn fits(&self, wanted: &Key) -> bool {
        let labels = |host: &str| host.split('.').map(str::to_owned).collect::<Vec<_>>();
        let (own, other) = (labels(&self.host), labels(&wanted.host));
        self.port == wanted.port
            && own.len() == other.len()
            && own.iter().zip(&other).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
            && wanted.path.starts_with(&self.path)
    }
}

/// `*` for any number of characters within a label. Patterns come from anyone's secrets, so none may take more than the product of both
/// lengths: only the last star is ever tried again (an earlier one that takes more gives the later ones nothing new).
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and how far the text was when it began.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, seen));
            }
            Some(letter) if *letter == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((behind, from)) = star else { return false };
                star = Some((behind, from + 1));
                at = behind;
                seen = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(logins: &Logins, reference: &str) -> Vec<String> {
        let user = |it| match it {
            Credentials::Basic { username, .. } => username,
            other => other.who(),
        };
        logins.of(reference).into_iter().map(user).collect()
    }

    #[test]
    fn credentials_are_for_their_registry_and_path_only() {
        let login = |user: &str| format!(r#"{{"username":"{user}","password":"p"}}"#);
        let keys = [
            ("https://index.docker.io/v1/", "hub"),
            ("r.example:5000", "port"),
            ("r.example/team", "team"),
            ("r.example", "plain"),
            ("*.dkr.example", "glob"),
        ];
        let auths: Vec<String> = keys.iter().map(|(key, user)| format!(r#""{key}":{}"#, login(user))).collect();
        let logins = Logins::parse(format!(r#"{{"auths":{{{}}}}}"#, auths.join(",")).as_bytes()).unwrap();
        for (reference, expected) in [
            ("nginx", &["hub"] as &[&str]),
            ("docker.io/a/b:1", &["hub"]),
            ("r.example:5000/x/y:1", &["port"]),
            ("r.example/team/app", &["team", "plain"]),
            ("r.example/other", &["plain"]),
            ("a.dkr.example/x", &["glob"]),
            ("a.b.dkr.example/x", &[]),
            ("r.example.evil/x", &[]),
        ] {
            assert_eq!(users(&logins, reference), expected, "{reference}");
        }
    }

    #[test]
    fn stars_take_neither_time_nor_stack() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*b*c", "axxbxbc", true),
            ("a*b*c", "axxbxb", false),
            ("*a", "ba", true),
            ("a", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(!glob("*a".repeat(40).as_bytes(), format!("{}b", "a".repeat(200)).as_bytes()));
        assert!(glob("*".repeat(1 << 20).as_bytes(), b"registry"));
    }

    #[test]
    fn every_form_of_a_login_is_read() {
        let text = br#"{"auths":{"a":{"auth":"dTpwOnE="},"a.x":{"auth":"dTpwOnE"},"b.x":{"identitytoken":"i"},"c.x":{"registrytoken":"t"},"d.x":{}}}"#;
        let logins = Logins::parse(text).unwrap();
        assert_eq!(
            logins.entries.iter().find(|it| it.0.host == "a").unwrap().1,
            Credentials::Basic { username: "u".into(), password: "p:q".into() }
        );
        assert_eq!(logins.of("a.x/i").len(), 1);
        assert_eq!(logins.of("b.x/i"), [Credentials::Identity("i".into())]);
        assert_eq!(logins.of("c.x/i"), [Credentials::Bearer("t".into())]);
        assert_eq!(logins.of("d.x/i"), []);
        assert_eq!(Logins::parse_legacy(br#"{"r.x":{"username":"u","password":"p"}}"#).unwrap().of("r.x/i").len(), 1);
    }

    #[test]
    fn a_broken_file_is_an_error_that_holds_no_secret() {
        let broken = Logins::parse(br#"{"auths":{"r":{"auth":"hunter2!"}}}"#).unwrap_err().to_string();
        assert!(broken.contains("\"r\"") && !broken.contains("hunter2"), "{broken}");
        let broken = Logins::parse(br#"{"auths":{"r":{"password":hunter2}}}"#).unwrap_err().to_string();
        assert!(!broken.contains("hunter2"), "{broken}");
        let shown = format!("{:?}", Credentials::Basic { username: "u".into(), password: "hunter2".into() });
        assert!(!shown.contains("hunter2"));
    }
}
