//! Who is let in beside those whom the cluster knows itself, and who else decides: the options, and what the API server is told.

use std::{fs, path::PathBuf, time::Duration};

use knarr_apiserver::{Access as Told, TokenWebhook, authn};

use crate::{cli::UpOptions, report::Failure};

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Access {
    authentication: Option<PathBuf>,
    authorization: Option<PathBuf>,
    issuers: Vec<String>,
    webhook: Option<PathBuf>,
    webhook_seconds: Option<u64>,
    proxy_authority: Option<PathBuf>,
    proxy_names: Vec<String>,
    user_headers: Vec<String>,
    uid_headers: Vec<String>,
    group_headers: Vec<String>,
    extra_prefixes: Vec<String>,
}

impl Access {
    /// The command line over the file.
    pub(crate) fn from_options(line: &UpOptions, file: &UpOptions) -> Access {
        let list = |of: fn(&UpOptions) -> &Vec<String>| if of(line).is_empty() { of(file).clone() } else { of(line).clone() };
        let path = |of: fn(&UpOptions) -> &Option<PathBuf>| of(line).clone().or(of(file).clone());
        Access {
            authentication: path(|options| &options.authentication_config),
            authorization: path(|options| &options.authorization_config),
            issuers: list(|options| &options.service_account_issuer),
            webhook: path(|options| &options.authentication_token_webhook_config_file),
            webhook_seconds: line.authentication_token_webhook_cache_seconds.or(file.authentication_token_webhook_cache_seconds),
            proxy_authority: path(|options| &options.requestheader_client_ca_file),
            proxy_names: list(|options| &options.requestheader_allowed_names),
            user_headers: list(|options| &options.requestheader_username_headers),
            uid_headers: list(|options| &options.requestheader_uid_headers),
            group_headers: list(|options| &options.requestheader_group_headers),
            extra_prefixes: list(|options| &options.requestheader_extra_headers_prefix),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Failure> {
        let is_url = |text: &&String| text.strip_prefix("https://").is_some_and(|host| !host.is_empty() && !host.ends_with('/'));
        if let Some(wrong) = self.issuers.iter().find(|issuer| !is_url(issuer)) {
            let message =
                format!("service-account-issuer {wrong:?} must be a URL such as https://clusters.example/one, without a slash at its end");
            return Err(Failure::Usage(message));
        }
        let alone = self.webhook_seconds.is_some() && self.webhook.is_none();
        if alone {
            let message = "authentication-token-webhook-cache-seconds means nothing without authentication-token-webhook-config-file";
            return Err(Failure::Usage(message.to_owned()));
        }
        let headers = [&self.user_headers, &self.uid_headers, &self.group_headers, &self.extra_prefixes];
        match headers.into_iter().flatten().find(|name| http::HeaderName::try_from(name.as_str()).is_err()) {
            Some(name) => Err(Failure::Usage(format!("requestheader: {name:?} cannot be the name of a header"))),
            None => Ok(()),
        }
    }

    /// Of service account tokens.
    pub(crate) fn issuers(&self, cluster_domain: &str) -> Vec<String> {
        if self.issuers.is_empty() { vec![format!("https://kubernetes.default.svc.{cluster_domain}")] } else { self.issuers.clone() }
    }

    pub(crate) fn told(&self) -> Result<Told, Failure> {
        let usual = authn::Proxy::default();
        let or = |given: &Vec<String>, usual: Vec<String>| if given.is_empty() { usual } else { given.clone() };
        let authority = self.proxy_authority.as_ref().map(|path| {
            fs::read_to_string(path).map_err(|error| Failure::Usage(format!("requestheader-client-ca-file {}: {error}", path.display())))
        });
        let proxy = authn::Proxy {
            authority: authority.transpose()?,
            names: or(&self.proxy_names, usual.names),
            user_headers: or(&self.user_headers, usual.user_headers),
            uid_headers: or(&self.uid_headers, usual.uid_headers),
            group_headers: or(&self.group_headers, usual.group_headers),
            extra_prefixes: or(&self.extra_prefixes, usual.extra_prefixes),
        };
        let remember = self.webhook_seconds.map_or(authn::WEBHOOK_CACHE_TIME, Duration::from_secs);
        let token_webhook = self.webhook.clone().map(|kubeconfig| TokenWebhook { kubeconfig, remember });
        Ok(Told { authentication: self.authentication.clone(), authorization: self.authorization.clone(), token_webhook, proxy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(line: &str, file: &str) -> Access {
        Access::from_options(&toml::from_str(line).unwrap(), &toml::from_str(file).unwrap())
    }

    #[test]
    fn the_command_line_wins_and_what_is_not_said_is_as_usual() {
        let line = "requestheader-allowed-names = ['a', 'b']";
        let file = "requestheader-allowed-names = ['c']\nauthentication-config = '/x.yaml'\nrequestheader-uid-headers = ['X-Uid']";
        let told = access(line, file).told().unwrap();
        assert_eq!(told.proxy.names, ["a", "b"]);
        assert_eq!(told.proxy.uid_headers, ["X-Uid"]);
        assert_eq!(told.proxy.user_headers, ["X-Remote-User"]);
        assert_eq!(told.authentication, Some("/x.yaml".into()));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let refused = |line: &str| access(line, "").check().unwrap_err().to_string();
        assert!(refused("authentication-token-webhook-cache-seconds = 5").contains("means nothing without"));
        assert!(refused("requestheader-username-headers = ['a b']").contains("\"a b\" cannot be the name of a header"));
        let missing = access("requestheader-client-ca-file = '/nosuch.pem'", "").told().unwrap_err().to_string();
        assert!(missing.contains("requestheader-client-ca-file /nosuch.pem"), "{missing}");
    }
}
