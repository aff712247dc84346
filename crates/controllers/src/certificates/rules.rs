//! What the built-in signers sign (upstream: pkg/apis/certificates/helpers.go and controller/certificates/signer).

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer as _;

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// The right to ask for the client certificate of one's own node, as its kubelet that renews.
pub(super) const SELF_NODE: &str = "selfnodeclient";
/// The right to ask for that of any node, as a kubelet that joins.
pub(super) const NODE: &str = "nodeclient";

const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";

/// What a request asks to be named.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) common_names: Vec<String>,
    organizations: Vec<String>,
    dns: usize,
    addresses: usize,
    mails: usize,
    uris: usize,
    /// Names of a sort that no rule knows.
    others: usize,
}

impl Asked {
    pub(super) fn read(pem: &[u8]) -> Result<Asked, String> {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| error.to_string())?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
        let subject = &request.certification_request_info.subject;
        // A name that is no text is none that a rule allows, and must not be passed over.
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or("\u{fffd}").to_owned();
        let mut asked = Asked {
            common_names: subject.iter_common_name().map(text).collect(),
            organizations: subject.iter_organization().map(text).collect(),
            ..Asked::default()
        };
        // All that the signer looks at: a request may have several lists of extensions.
        for attribute in request.certification_request_info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(list) = attribute.parsed_attribute() else { continue };
            for extension in list.extensions.iter().filter(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME) {
                match extension.parsed_extension() {
                    ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().for_each(|name| asked.count(name)),
                    // It is signed as it stands, whether it is understood or not.
                    _ => asked.others += 1,
                }
            }
        }
        Ok(asked)
    }

    fn count(&mut self, name: &GeneralName<'_>) {
        *match name {
            GeneralName::DNSName(_) => &mut self.dns,
            GeneralName::IPAddress(_) => &mut self.addresses,
            GeneralName::RFC822Name(_) => &mut self.mails,
            GeneralName::URI(_) => &mut self.uris,
            _ => &mut self.others,
        } += 1;
    }

    fn node(&self) -> Result<(), &'static str> {
        if self.organizations != [NODES] {
            return Err("subject organization is not system:nodes");
        }
        match &*self.common_names {
            [name] if name.len() > NODE_PREFIX.len() && name.starts_with(NODE_PREFIX) => Ok(()),
            _ => Err("subject common name does not begin with system:node:"),
        }
    }
}

/// The rules of the signer; `None` where it is not one of those built in.
pub(super) fn check(signer: &str, asked: &Asked, usages: &[&str]) -> Option<Result<(), String>> {
    Some(match signer {
        CLIENT => client(usages),
        KUBELET_CLIENT => kubelet_client(asked, usages).map_err(str::to_owned),
        KUBELET_SERVING => kubelet_serving(asked, usages).map_err(str::to_owned),
        _ => return None,
    })
}

fn client(usages: &[&str]) -> Result<(), String> {
    if let Some(usage) = usages.iter().find(|usage| !["digital signature", "key encipherment", "client auth"].contains(*usage)) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    match usages.contains(&"client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

pub(super) fn kubelet_client(asked: &Asked, usages: &[&str]) -> Result<(), &'static str> {
    asked.node()?;
    for (count, why) in [
        (asked.dns, "DNS subjectAltNames are not allowed"),
        (asked.mails, "Email subjectAltNames are not allowed"),
        (asked.addresses, "IP subjectAltNames are not allowed"),
        (asked.uris, "URI subjectAltNames are not allowed"),
        (asked.others, "subjectAltNames of this type are not allowed"),
    ] {
        if count > 0 {
            return Err(why);
        }
    }
    match are(usages, "client auth") {
        true => Ok(()),
        false => Err("usages did not match [client auth digital signature key encipherment]"),
    }
}

fn kubelet_serving(asked: &Asked, usages: &[&str]) -> Result<(), &'static str> {
    asked.node()?;
    if asked.dns + asked.addresses == 0 {
        return Err("DNS or IP subjectAltName is required");
    }
    for (count, why) in [
        (asked.mails, "Email subjectAltNames are not allowed"),
        (asked.uris, "URI subjectAltNames are not allowed"),
        (asked.others, "subjectAltNames of this type are not allowed"),
    ] {
        if count > 0 {
            return Err(why);
        }
    }
    match are(usages, "server auth") {
        true => Ok(()),
        false => Err("usages did not match [digital signature key encipherment server auth]"),
    }
}

/// Signatures and `purpose`; keys other than RSA encipher nothing.
fn are(usages: &[&str], purpose: &str) -> bool {
    let known = |usage: &&str| [purpose, "digital signature", "key encipherment"].contains(usage);
    usages.iter().all(known) && usages.contains(&purpose) && usages.contains(&"digital signature")
}
