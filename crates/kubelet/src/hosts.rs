//! The files by which a pod knows names: `/etc/hosts` and `/etc/resolv.conf`, and its host name. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// Longest host name that Linux takes (HOST_NAME_MAX).
const HOSTNAME_BYTES_MAX: usize = 63;
/// Search domains that glibc reads since 2.26 without limit; upstream validates 32 in all.
const SEARCH_MAX: usize = 32;
/// Name servers that resolvers read (MAXNS).
const NAMESERVERS_MAX: usize = 3;

/// The pod's host name: `spec.hostname`, or its name, cut to what Linux takes; with `setHostnameAsFQDN`, in full.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|it| it.hostname_override.clone()) {
        return name;
    }
    if spec.and_then(|it| it.set_hostname_as_fqdn) == Some(true)
        && let Some(name) = fqdn(pod, cluster_domain)
    {
        return name;
    }
    short_name(pod)
}

fn short_name(pod: &Pod) -> String {
    let name = (pod.spec.as_ref())
        .and_then(|it| it.hostname.clone())
        .filter(|it| !it.is_empty())
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    let end = name.len().min(HOSTNAME_BYTES_MAX);
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// `host.subdomain.namespace.svc.domain`, where the pod has a subdomain.
fn fqdn(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|it| !it.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref()?;
    Some(format!("{}.{subdomain}.{namespace}.svc.{cluster_domain}", short_name(pod)))
}

/// Text of `/etc/hosts`. On the host's network the host's own file comes first.
pub(crate) fn hosts(pod: &Pod, ips: &[IpAddr], host_file: &str, cluster_domain: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut out = String::new();
    if spec.and_then(|it| it.host_network) == Some(true) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(host_file);
    } else {
        out.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in ips {
            match fqdn(pod, cluster_domain) {
                Some(full) => _ = writeln!(out, "{ip}\t{full}\t{}", short_name(pod)),
                None => _ = writeln!(out, "{ip}\t{}", short_name(pod)),
            }
        }
    }
    let aliases = spec.and_then(|it| it.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(out, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    out
}

#[derive(Default)]
struct ResolvConf {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> ResolvConf {
        let mut it = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => it.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => it.searches = words.map(str::to_owned).collect(),
                Some("options") => it.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        it
    }

    fn text(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(out, "search {}", self.searches.join(" "));
        }
        for server in &self.nameservers {
            let _ = writeln!(out, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(out, "options {}", self.options.join(" "));
        }
        out
    }
}

/// Text of `/etc/resolv.conf` by the pod's `dnsPolicy` and `dnsConfig`.
pub(crate) fn resolv_conf(spec: &PodSpec, namespace: &str, dns: &[IpAddr], cluster_domain: &str, host_file: &str) -> String {
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut conf = match policy {
        "None" => ResolvConf::default(),
        "ClusterFirst" if !host_network => cluster_first(namespace, dns, cluster_domain, host_file),
        "ClusterFirstWithHostNet" => cluster_first(namespace, dns, cluster_domain, host_file),
        _ => ResolvConf::parse(host_file),
    };
    if let Some(own) = &spec.dns_config {
        extend(&mut conf.nameservers, own.nameservers.iter().flatten());
        extend(&mut conf.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            conf.options.retain(|it| it.split(':').next() != Some(name));
            conf.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    conf.nameservers.truncate(NAMESERVERS_MAX);
    conf.searches.truncate(SEARCH_MAX);
    conf.text()
}

fn cluster_first(namespace: &str, dns: &[IpAddr], cluster_domain: &str, host_file: &str) -> ResolvConf {
    let mut searches = vec![format!("{namespace}.svc.{cluster_domain}"), format!("svc.{cluster_domain}"), cluster_domain.to_owned()];
    extend(&mut searches, ResolvConf::parse(host_file).searches.iter());
    ResolvConf { nameservers: dns.iter().map(ToString::to_string).collect(), searches, options: vec!["ndots:5".into()] }
}

fn extend<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    const HOST: &str = "domain example.org\nnameserver 192.0.2.53\noptions timeout:1\n";

    fn check_resolv(spec: serde_json::Value, expected: Expect) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        expected.assert_eq(&resolv_conf(&spec, "shop", &["10.43.0.10".parse().unwrap()], "cluster.local", HOST));
    }

    #[test]
    fn cluster_first_asks_the_cluster() {
        check_resolv(
            json!({}),
            expect![[r#"
                search shop.svc.cluster.local svc.cluster.local cluster.local example.org
                nameserver 10.43.0.10
                options ndots:5
            "#]],
        );
    }

    #[test]
    fn the_host_network_and_default_ask_the_host() {
        for spec in [json!({"hostNetwork": true}), json!({"dnsPolicy": "Default"})] {
            check_resolv(
                spec,
                expect![[r#"
                    search example.org
                    nameserver 192.0.2.53
                    options timeout:1
                "#]],
            );
        }
    }

    #[test]
    fn own_settings_are_added_and_options_replaced() {
        check_resolv(
            json!({"dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["x.test"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            expect![[r#"
                search shop.svc.cluster.local svc.cluster.local cluster.local example.org x.test
                nameserver 10.43.0.10
                nameserver 192.0.2.1
                options ndots:2 edns0
            "#]],
        );
        check_resolv(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}),
            expect![[r#"
                nameserver 192.0.2.1
            "#]],
        );
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": {"containers": [], "subdomain": "web", "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a.test", "b.test"]}]},
        }))
        .unwrap();
        let text = hosts(&pod, &["10.42.0.5".parse().unwrap()], "", "cluster.local");
        assert!(text.contains("10.42.0.5\tweb-0.web.shop.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("192.0.2.9\ta.test\tb.test\n"), "{text}");
    }

    #[test]
    fn a_host_name_is_cut_to_what_linux_takes() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": format!("{}-b", "a".repeat(62))}})).unwrap();
        assert_eq!(hostname(&pod, "cluster.local"), "a".repeat(62));
    }
}
