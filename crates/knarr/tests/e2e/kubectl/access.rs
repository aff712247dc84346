//! Who may do what.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{cluster, holds, text};

#[test]
fn permissions_are_granted_asked_for_and_used() {
    cluster(|kubectl| {
        holds(&kubectl.ok("auth whoami"), &["Username", "kubernetes-admin", "Groups", "system:masters system:authenticated"]);
        assert_eq!(kubectl.ok("auth can-i delete nodes"), "yes\n");
        kubectl.ok("create serviceaccount reader");
        kubectl.ok("create role reader --verb=get,list --resource=pods");
        kubectl.ok("create rolebinding reader --role=reader --serviceaccount=default:reader");
        holds(&kubectl.ok("describe role reader"), &["pods", "[get list]"]);
        let account = "system:serviceaccount:default:reader";
        assert_eq!(kubectl.ok(&format!("auth can-i list pods --as={account}")), "yes\n");
        let no = kubectl.output(&format!("auth can-i delete pods --as={account}"));
        assert_eq!((text(&no.stdout).as_str(), no.status.code()), ("no\n", Some(1)));
        holds(&kubectl.ok(&format!("auth can-i --list --as={account}")), &["Resources", "pods", "[get list]"]);
        let forbidden = kubectl.fails(1, &format!("delete pod x --as={account}"));
        holds(&forbidden, &["(Forbidden)", "User \"system:serviceaccount:default:reader\" cannot delete resource \"pods\""]);

        // With the account's own token, and without the administrator's certificate.
        let token = kubectl.ok("create token reader --duration=1h");
        let kubeconfig = kubectl.ok("config view --raw --minify -o jsonpath={.clusters[0].cluster.certificate-authority-data}");
        let own = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}],
              clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:6443', certificate-authority-data: {kubeconfig}}}}}],
              users: [{{name: u, user: {{token: {token}}}}}]}}"
        );
        let own = kubectl.file("own.yaml", &own);
        holds(&kubectl.ok(&format!("auth whoami --kubeconfig={own}")), &[account, "system:serviceaccounts:default"]);
        assert_eq!(kubectl.ok(&format!("get pods -o name --kubeconfig={own}")), "");
        holds(&kubectl.fails(1, &format!("get secrets --kubeconfig={own}")), &["cannot list resource \"secrets\""]);
        let wrong = kubectl.file("wrong.yaml", &std::fs::read_to_string(&own).unwrap().replace(&token, "nonsense"));
        holds(&kubectl.fails(1, &format!("get pods --kubeconfig={wrong}")), &["You must be logged in to the server"]);
    });
}

#[test]
fn a_certificate_is_requested_approved_and_used() {
    cluster(|kubectl| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "jo");
        let key = rcgen::KeyPair::generate().unwrap();
        let request = STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap());
        let manifest = |name: &str, usage: &str| {
            format!(
                "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
                 spec: {{request: {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [{usage}], expirationSeconds: 3600}}\n"
            )
        };
        kubectl.apply(&manifest("jo", "client auth"));
        holds(&kubectl.ok("get csr jo"), &["kubernetes.io/kube-apiserver-client", "kubernetes-admin", "60m", "Pending"]);
        holds(&kubectl.ok("certificate approve jo"), &["certificatesigningrequest.certificates.k8s.io/jo approved"]);
        kubectl.ok("wait csr/jo --for=jsonpath={.status.certificate} --timeout=60s");
        holds(&kubectl.ok("get csr jo"), &["Approved,Issued"]);
        let certificate = kubectl.ok("get csr jo -o jsonpath={.status.certificate}");
        let certificate = kubectl.file("jo.crt", &String::from_utf8(STANDARD.decode(certificate).unwrap()).unwrap());
        let key = kubectl.file("jo.key", &key.serialize_pem());
        let authority = kubectl.ok("config view --raw --minify -o jsonpath={.clusters[0].cluster.certificate-authority-data}");
        let own = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}],
              clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:6443', certificate-authority-data: {authority}}}}}],
              users: [{{name: u, user: {{client-certificate: {certificate}, client-key: {key}}}}}]}}"
        );
        let own = kubectl.file("jo.yaml", &own);
        holds(&kubectl.ok(&format!("auth whoami --kubeconfig={own}")), &["Username", "jo", "Groups", "system:authenticated"]);

        kubectl.apply(&manifest("wrong", "server auth"));
        kubectl.ok("certificate approve wrong");
        kubectl.ok("wait csr/wrong --for=condition=Failed --timeout=60s");
        holds(&kubectl.ok("get csr wrong -o yaml"), &["invalid usage for client certificate: server auth"]);
        kubectl.apply(&manifest("denied", "client auth"));
        kubectl.ok("certificate deny denied");
        holds(&kubectl.ok("get csr denied"), &["Denied"]);
    });
}

#[test]
fn roles_are_reconciled() {
    cluster(|kubectl| {
        let role = |verbs: &str| {
            let head = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: default}";
            format!("{head}\nrules: [{{apiGroups: [''], resources: [pods], verbs: [{verbs}]}}]\n")
        };
        let reconcile = |verbs: &str| {
            let file = kubectl.file("role.yaml", &role(verbs));
            let output = kubectl.output(&format!("auth reconcile -f {file}"));
            text(&output.stdout) + &text(&output.stderr)
        };
        holds(&reconcile("get"), &["role.rbac.authorization.k8s.io/r reconciled", "reconciliation required create"]);
        holds(&reconcile("get, list"), &["reconciliation required update"]);
        let verbs = kubectl.ok("get role r -o jsonpath={.rules[*].verbs[*]}");
        assert!(verbs.contains("get") && verbs.contains("list"), "{verbs}");
        let quiet = reconcile("get, list");
        assert!(!quiet.contains("required"), "{quiet}");
    });
}

#[test]
fn everything_that_kubectl_can_make_is_made() {
    cluster(|kubectl| {
        for (line, made) in [
            ("clusterrole nodes --verb=get --resource=nodes", "clusterrole.rbac.authorization.k8s.io/nodes created"),
            ("clusterrolebinding nodes --clusterrole=nodes --user=jo", "clusterrolebinding.rbac.authorization.k8s.io/nodes created"),
            ("secret generic plain --from-literal=a=b", "secret/plain created"),
            ("quota small --hard=pods=9", "resourcequota/small created"),
            ("poddisruptionbudget web --selector=app=web --min-available=1", "poddisruptionbudget.policy/web created"),
            ("priorityclass urgent --value=10", "priorityclass.scheduling.k8s.io/urgent created"),
            ("ingress site --rule=site.test/*=web:80", "ingress.networking.k8s.io/site created"),
            ("deployment web --image=busybox:1 --replicas=0", "deployment.apps/web created"),
            ("service clusterip inner --tcp=80:8080", "service/inner created"),
            ("service nodeport outer --tcp=80:8080", "service/outer created"),
            ("service externalname away --external-name=site.test", "service/away created"),
            ("service loadbalancer balanced --tcp=80:8080", "service/balanced created"),
        ] {
            assert_eq!(kubectl.ok(&format!("create {line}")).trim_end(), made);
        }
        holds(&kubectl.ok("describe ingress site"), &["site.test", "/", "web:80"]);
        holds(&kubectl.ok("describe secret plain"), &["Type:  Opaque", "a:  1 bytes"]);
        assert_eq!(kubectl.ok("get secret plain -o jsonpath={.data.a}"), "Yg==");
        let services = kubectl.ok("get services --no-headers -o custom-columns=:.metadata.name,:.spec.type,:.spec.clusterIP");
        holds(
            &services,
            &["away", "ExternalName", "<none>", "balanced", "LoadBalancer", "10.43.", "inner", "ClusterIP", "outer", "NodePort"],
        );
    });
}
