//! Names and addresses that a serving certificate is good for.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sans {
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Sans {
    /// What every API server answers to: localhost, the in-cluster names under `domain`, and the first service address.
    pub fn api_server(domain: &str, service_address: IpAddr, node_name: &str) -> Sans {
        let mut sans = Sans::default();
        for name in ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", node_name] {
            sans.add_name(name);
        }
        sans.add_name(&format!("kubernetes.default.svc.{domain}"));
        sans.add_address(IpAddr::from([127, 0, 0, 1]));
        sans.add_address(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
        sans.add_address(service_address);
        sans
    }

    pub fn add_name(&mut self, name: &str) {
        if !name.is_empty() && !self.names.iter().any(|have| have == name) {
            self.names.push(name.to_owned());
        }
    }

    pub fn add_address(&mut self, address: IpAddr) {
        if !address.is_unspecified() && !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    /// Adds a name or an address, whichever `text` is.
    pub fn add(&mut self, text: &str) {
        match text.parse() {
            Ok(address) => self.add_address(address),
            Err(_) => self.add_name(text),
        }
    }

    pub(super) fn covers(&self, other: &Sans) -> bool {
        other.names.iter().all(|name| self.names.contains(name)) && other.addresses.iter().all(|address| self.addresses.contains(address))
    }

    /// Those of a certificate; none where it cannot be read.
    pub(super) fn of(der: &CertificateDer<'_>) -> Option<Sans> {
        use x509_parser::extensions::GeneralName;
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let mut sans = Sans::default();
        for name in certificate.subject_alternative_name().ok()?.map(|names| &names.value.general_names).into_iter().flatten() {
            match name {
                GeneralName::DNSName(name) => sans.add_name(name),
                GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                    Ok(v4) => sans.add_address(v4.into()),
                    Err(_) => sans.add_address(<[u8; 16]>::try_from(*bytes).ok()?.into()),
                },
                _ => {}
            }
        }
        Some(sans)
    }
}
