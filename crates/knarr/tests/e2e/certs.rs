//! Certificates and token keys, as one who runs Knarr meets them: `knarr certs`, an address that the machine gets, `knarr tokens`.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::harness::{Knarr, output};

/// What the machine gets while Knarr runs (RFC 5737).
const LATER: &str = "203.0.113.9";
const RENEWED: [&str; 5] = ["admin.kubeconfig", "apiserver", "apiserver-kubelet-client", "front-proxy-client", "kubelet"];

/// The blocks of `knarr certs`, by name.
fn block<'a>(listed: &'a str, name: &str) -> &'a str {
    let head = format!("{name}: ");
    listed.split("\n\n").find(|block| block.starts_with(&head)).unwrap_or_else(|| panic!("no {name} in {listed}"))
}

#[test]
fn certificates_are_listed_renewed_and_made_good_for_a_new_address_while_clients_go_on() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    knarr_testbed::netns::run(|| {
        let mut knarr = Knarr::new();
        knarr.up();
        let port = fs::read_to_string(knarr.kubeconfig()).unwrap();
        let port = port.split("server: https://127.0.0.1:").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let listed = knarr.run(&["certs"]);
        for (name, subject, renews) in [
            ("ca", "CN=knarr-ca", false),
            ("front-proxy-ca", "CN=knarr-front-proxy-ca", false),
            ("apiserver", "CN=kube-apiserver", true),
            ("kubelet", "O=system:nodes, CN=system:node:node-1", true),
            ("apiserver-kubelet-client", "CN=system:apiserver", true),
            ("front-proxy-client", "CN=front-proxy-client", true),
            ("admin.kubeconfig", "O=system:masters, CN=kubernetes-admin", true),
        ] {
            let block = block(&listed, name);
            assert!(block.starts_with(&format!("{name}: {subject}\n")) && block.contains("  used by "), "{block}");
            assert!(block.contains("  issued ") && block.contains("  expires "), "{block}");
            assert_eq!(block.contains("by Knarr while it runs, from "), renews, "{block}");
        }
        assert!(!listed.contains(LATER));

        // The machine is carried into another network.
        output(Command::new("ip").args(["link", "add", "other", "type", "veth", "peer", "name", "far"]));
        output(Command::new("ip").args(["address", "add", &format!("{LATER}/24"), "dev", "other"]));
        output(Command::new("ip").args(["link", "set", "other", "up"]));
        let server = format!("https://{LATER}:{port}");
        knarr.eventually("kubectl believes the server at the new address", |knarr| {
            knarr.kubectl(&["--server", &server, "get", "namespaces"]).status.success()
        });
        let moved = knarr.run(&["certs"]);
        assert!(block(&moved, "apiserver").contains(LATER));
        knarr.eventually("so is the kubelet's", |knarr| block(&knarr.run(&["certs"]), "kubelet").contains(LATER));

        // All at once; the API server and the kubelet go on believing each other, and the administrator's old kubeconfig stays good.
        let old = knarr.write("old.kubeconfig", &fs::read_to_string(knarr.kubeconfig()).unwrap());
        let told = knarr.run(&["certs", "renew"]);
        let renewed: BTreeSet<&str> = told.lines().map(|line| line.strip_prefix("renewed ").unwrap()).collect();
        assert_eq!(renewed, BTreeSet::from(RENEWED));
        assert_ne!(fs::read_to_string(knarr.kubeconfig()).unwrap(), fs::read_to_string(&old).unwrap());
        assert_eq!(knarr.must_kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/healthz"]), "ok");
        output(Command::new("kubectl").arg("--kubeconfig").arg(&old).args(["get", "namespaces"]));
        assert_eq!(knarr.run(&["certs", "renew", "kubelet"]), "renewed kubelet\n");
        let refused = knarr.command(&["certs", "renew", "ca"]).output().unwrap();
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("`knarr certs` lists them"));

        // Those on disk are listed also when nothing runs, as they were.
        let (running, told) = (knarr.run(&["certs", "list"]), ["ca", "apiserver", "admin.kubeconfig"]);
        knarr.kill();
        let at_rest = knarr.run(&["certs"]);
        told.iter().for_each(|name| assert_eq!(block(&at_rest, name), block(&running, name)));
        assert!(!knarr.command(&["certs", "renew"]).output().unwrap().status.success());
    })
    .expect("a network namespace can be made");
}

#[test]
fn a_relying_party_believes_tokens_of_both_keys_until_the_old_one_is_forgotten() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    knarr_testbed::require_program!("node");
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-clients/node/node_modules/jose/dist/webapi/index.js");
    if !Path::new(module).exists() {
        return knarr_testbed::skipped("needs the JavaScript client in target/test-clients, which `./x test` installs");
    }
    knarr_testbed::netns::run(move || {
        let issuer = "https://127.0.0.1:6443";
        let mut knarr = Knarr::new();
        knarr.up_until(&["--listen", "127.0.0.1:6443", "--service-account-issuer", issuer], "ready in ");
        let token = || {
            let audiences = [&format!("--audience={issuer}"), "--audience=vault"];
            knarr.must_kubectl(&["create", "token", "default", audiences[0], audiences[1]])
        };
        let old = token();
        let check = |tokens: &[&str]| {
            let mut command = Command::new("node");
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/issuer.mjs")).args([module, issuer]).args(tokens);
            let told = output(command.env("NODE_EXTRA_CA_CERTS", knarr.data_dir().join("pki/ca.crt")));
            told.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let first = check(&[&old]);
        assert_eq!(first[1], "1 keys");
        let told = knarr.run(&["tokens", "rotate"]);
        assert!(told.contains("is published, and tokens are signed with it from "), "{told}");
        assert_eq!(check(&[&token()]), [&first[0], "2 keys"], "relying parties may not have read of the new key");
        let told = knarr.run(&["tokens", "rotate", "--now"]);
        assert!(told.contains("stay good") && told.contains("`knarr tokens forget`"), "{told}");
        let new = token();
        let both = check(&[&old, &new]);
        assert_eq!((&both[0], both[2].as_str()), (&first[0], "2 keys"));
        assert!(both[1].starts_with("system:serviceaccount:default:default ") && both[1] != both[0]);

        // The server itself takes both, too, and after that the new one only.
        let who = |token: &str| {
            let server = ["--server", issuer, "--kubeconfig", "/dev/null"];
            let mut command = Command::new("kubectl");
            command.args(server).arg("--token").arg(token).arg("--certificate-authority").arg(knarr.data_dir().join("pki/ca.crt"));
            String::from_utf8_lossy(&command.args(["auth", "whoami"]).output().unwrap().stdout)
                .contains("system:serviceaccount:default:default")
        };
        assert!(who(&old) && who(&new));
        let status = knarr.run(&["tokens", "status"]);
        let kid = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
        let line = |kid: &str| status.lines().find(|line| line.starts_with(kid)).unwrap_or_else(|| panic!("{kid}: {status}")).to_owned();
        assert!(line(&kid(&both[0])).ends_with("verifies only") && line(&kid(&both[1])).ends_with("signs"), "{status}");
        let early = knarr.command(&["tokens", "forget"]).output().unwrap();
        let message = String::from_utf8_lossy(&early.stderr).into_owned();
        assert!(
            !early.status.success() && message.contains("`knarr tokens forget --force`") && who(&old),
            "pods still have old ones: {message}"
        );
        let told = knarr.run(&["tokens", "forget", "--force"]);
        assert!(told.contains(&format!("forgot {}", kid(&both[0]))), "{told}");
        assert!(!who(&old) && who(&new));
        assert_eq!(check(&[&new])[1], "1 keys");
    })
    .expect("a network namespace can be made");
}
