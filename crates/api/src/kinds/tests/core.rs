//! What upstream says of pods, services and the rest of core, word for word: one row per rule.

use super::*;

/// All faults, complete.
#[track_caller]
fn says(resource: &str, mut object: Object, expected: &[&str]) {
    let kind = kind(resource);
    kind.default(&mut object);
    let errors: Vec<String> = kind.validate(&object).iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected);
}

/// The pod's one container with more in it, and two volumes.
fn container(more: Value) -> Object {
    let mut container = json!({"name": "c", "image": "i"});
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    pod(json!({"containers": [container], "volumes": [{"name": "v"}, {"name": "claim", "persistentVolumeClaim": {"claimName": "x"}}]}))
}

#[test]
fn what_a_container_is_refused_for() {
    for (more, expected) in [
        (json!({"ports": [{}]}), "ports[0].containerPort: Required value"),
        (json!({"livenessProbe": {"httpGet": {}}}), "livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (
            json!({"livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}}),
            "livenessProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
            "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
        (json!({"envFrom": [{}]}), "envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}]}),
            "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x['a']"}}}]}),
            "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x['a']\": error converting fieldPath: field label does not support subscript: spec.x['a']",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]}),
            "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "/y"}]}),
            "volumeMounts.subPath: Invalid value: \"/y\": must be a relative path",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "mountPropagation": "Bidirectional"}]}),
            "volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "recursiveReadOnly": "Enabled"}]}),
            "volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]}),
            "volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
        ),
        (
            json!({"resources": {"requests": {"hugepages-2Mi": "4Mi", "cpu": "1"}}}),
            "resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (json!({"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}), "resources: Forbidden: HugePages require cpu or memory"),
        (
            json!({"resources": {"claims": [{"name": "x"}]}}),
            "resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty",
        ),
        (
            json!({"resizePolicy": [{"resourceName": "gpu", "restartPolicy": "NotRequired"}]}),
            "resizePolicy: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\"",
        ),
        (
            json!({"securityContext": {"procMount": "Unmasked"}}),
            "securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            json!({"securityContext": {"seccompProfile": {}}}),
            "securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Localhost"}}}),
            "securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
        ),
        (
            json!({"terminationMessagePolicy": "X"}),
            "terminationMessagePolicy: Unsupported value: \"X\": supported values: \"File\", \"FallbackToLogsOnError\"",
        ),
    ] {
        says("pods", container(more), &[&format!("spec.containers[0].{expected}")]);
    }
    // Requests follow from limits, and so do their faults.
    for (name, amount, reasons) in [
        ("example.com/gpu", "1500m", &[("1500m", "must be an integer")][..]),
        (
            "gpu",
            "1",
            &[("gpu", "must be a standard resource type or fully qualified"), ("gpu", "must be a standard resource for containers")],
        ),
    ] {
        let lines = ["limits", "requests"].map(|list| {
            let line =
                |(shown, why): &(&str, &str)| format!("spec.containers[0].resources.{list}[{name}]: Invalid value: {shown:?}: {why}");
            reasons.iter().map(line).collect::<Vec<_>>()
        });
        let lines = lines.concat();
        let expected: Vec<&str> = lines.iter().map(String::as_str).collect();
        says("pods", container(json!({"resources": {"limits": {name: amount}}})), &expected);
    }
}

#[test]
fn what_a_pod_is_refused_for() {
    for (spec, expected) in [
        (json!({"restartPolicy": "X"}), "restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnFailure\", \"Never\""),
        (json!({"ephemeralContainers": [{"name": "e", "image": "i"}]}), "ephemeralContainers: Forbidden: cannot be set on create"),
        (
            json!({"nodeName": "n", "schedulingGates": [{"name": "g"}]}),
            "nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (json!({"schedulingGates": [{"name": "g"}, {"name": "g"}]}), "schedulingGates[1]: Duplicate value: \"g\""),
        (
            json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 81}]}]}),
            "containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]}]}),
            "containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
        ),
        (json!({"hostUsers": false, "hostPID": true}), "HostPID: Forbidden: when `pod.Spec.HostUsers` is false"),
        (
            json!({"shareProcessNamespace": true, "hostPID": true}),
            "securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}}),
            "securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true",
        ),
        (json!({"os": {"name": "beos"}}), "os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\""),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "preference": {}}]}}}),
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]}),
            "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2}]}),
            "topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
            "tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
        ),
        (json!({"dnsConfig": {"options": [{"value": "1"}]}}), "dnsConfig.options[0]: Required value: must not be empty"),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}]}),
            "volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "..x"}]}}]}),
            "volumes[0].configMap.items[0].path: Invalid value: \"..x\": must not start with '..'",
        ),
        (
            json!({"volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "p"}]}}]}),
            "volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        (
            json!({"serviceAccountName": "s", "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}]}),
            "volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
        ),
        (
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/a", "type": "Fifo"}}]}),
            "volumes[0].hostPath.type: Unsupported value: \"Fifo\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        ),
        (
            json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}]}),
            "volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
        ),
        (
            json!({"resources": {"limits": {"cpu": "1"}}, "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]}),
            "resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than or equal to pod limits of 1",
        ),
    ] {
        says("pods", pod(spec), &[&format!("spec.{expected}")]);
    }
    // A volume that is not sound is none, so that its mount is not found.
    let mut mounted = container(json!({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}));
    mounted.set(&["spec", "volumes"], json!([{"name": "w", "secret": {}}]));
    let both = ["spec.volumes[0].secret.secretName: Required value", "spec.containers[0].volumeMounts[0].name: Not found: \"w\""];
    says("pods", mounted, &both);
    let mut costly = pod(json!({}));
    costly.set(&["metadata", "annotations", "controller.kubernetes.io/pod-deletion-cost"], "x".into());
    says(
        "pods",
        costly,
        &["metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"x\": must be a 32bit integer"],
    );
}

#[test]
fn pods_that_wait_for_gates_may_be_made_choosier() {
    let gated = |more: Value| {
        let mut spec = json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        pod(spec)
    };
    change("pods", gated(json!({})), gated(json!({"nodeSelector": {"a": "b", "c": "d"}})), &[]);
    let removed =
        "spec.nodeSelector: Invalid value: {\"c\":\"d\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)";
    change("pods", gated(json!({})), gated(json!({"nodeSelector": {"c": "d"}})), &[removed]);
    let wants = |zones: Value| {
        let term = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": zones}]}]);
        gated(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": term}}}}))
    };
    change("pods", gated(json!({})), wants(json!(["a"])), &[]);
    change(
        "pods",
        wants(json!(["a"])),
        wants(json!(["b"])),
        &["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value"],
    );
    change(
        "pods",
        gated(json!({})),
        gated(json!({"schedulingGates": [{"name": "h"}]})),
        &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'"],
    );
}

/// The faults of a change through a subresource.
#[track_caller]
fn part(subresource: &str, mut old: Object, mut new: Object, expected: &[&str]) {
    let kind = kind("pods");
    kind.default(&mut old);
    kind.default(&mut new);
    kind.prepare_create(&mut old);
    kind.prepare_update(&mut new, &old, subresource);
    let errors: Vec<String> = kind.validate_update(&new, &old, subresource).iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected);
}

#[test]
fn a_resize_changes_cpu_and_memory_and_nothing_else() {
    let with = |resources: Value| container(json!({"resources": resources}));
    let cpu = |amount: &str| with(json!({"requests": {"cpu": amount}}));
    part("resize", cpu("1"), cpu("2"), &[]);
    part("resize", cpu("1"), with(json!({"requests": {"cpu": "1", "memory": "1Gi"}})), &[]);
    part(
        "resize",
        with(json!({"requests": {"cpu": "1", "memory": "1Gi"}})),
        cpu("1"),
        &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
    );
    part(
        "resize",
        cpu("1"),
        with(json!({"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}})),
        &["spec: Forbidden: only cpu and memory resources are mutable"],
    );
    part(
        "resize",
        with(json!({})),
        cpu("1"),
        &["spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing"],
    );
}

#[test]
fn containers_to_debug_with_are_only_added() {
    let debug = |containers: Value| pod(json!({"ephemeralContainers": containers}));
    let one = json!({"name": "e", "image": "i", "targetContainerName": "c"});
    part("ephemeralcontainers", pod(json!({})), debug(json!([one])), &[]);
    let other = json!({"name": "e", "image": "j", "targetContainerName": "c"});
    part(
        "ephemeralcontainers",
        debug(json!([one])),
        debug(json!([other])),
        &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed\n"],
    );
    part(
        "ephemeralcontainers",
        debug(json!([one])),
        debug(json!([])),
        &["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"],
    );
    part(
        "ephemeralcontainers",
        pod(json!({})),
        debug(json!([{"name": "e", "image": "i", "targetContainerName": "x"}])),
        &["spec.ephemeralContainers[0].targetContainerName: Not found: \"x\""],
    );
}

#[test]
fn what_was_wrong_already_is_not_held_against_a_change() {
    let old = pod(json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 0}]}]}));
    let mut new = old.clone();
    new.set(&["metadata", "labels", "a"], "b".into());
    change("pods", old.clone(), new, &[]);
    let worse = pod(json!({"containers": [{"name": "c", "image": "", "ports": [{"containerPort": 0}]}]}));
    change("pods", old, worse, &["spec.containers[0].image: Required value"]);
}

#[test]
fn what_a_service_is_refused_for() {
    let ports = json!([{"port": 80}]);
    for (spec, expected) in [
        (json!({"ports": [{}]}), "ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (json!({"ports": [{"port": 1, "appProtocol": "a b"}]}), "ports[0].appProtocol: Invalid value: \"a b\": name part must consist"),
        (
            json!({"ports": ports, "externalIPs": ["127.0.0.1"]}),
            "externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
        ),
        (
            json!({"ports": ports, "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"ports": ports, "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"]}),
            "LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ),
        (
            json!({"ports": ports, "allocateLoadBalancerNodePorts": true}),
            "allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (json!({"ports": ports, "loadBalancerClass": "x"}), "loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"),
        (
            json!({"ports": ports, "healthCheckNodePort": 30000}),
            "healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (
            json!({"ports": ports, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            "sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
        ),
        (
            json!({"ports": ports, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            "clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
        ),
        (
            json!({"ports": ports, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
            "clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv4"]}),
            "ipFamilies: Forbidden: may not be set for ExternalName services",
        ),
        (
            json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
            "ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
        ),
    ] {
        faults("services", service(spec), &[&format!("spec.{expected}")]);
    }
}

#[test]
fn a_service_of_another_sort_loses_what_it_no_longer_needs() {
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    let balanced = json!({"ports": ports, "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
        "loadBalancerClass": "x.io/y", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
    let mut plain = balanced.clone();
    plain["type"] = "ClusterIP".into();
    change("services", service(balanced.clone()), service(plain), &[]);
    let mut other = balanced.clone();
    other["loadBalancerClass"] = "z".into();
    change(
        "services",
        service(balanced.clone()),
        service(other),
        &["spec.loadBalancerClass: Invalid value: \"z\": may not change once set"],
    );
    let mut forgetful = balanced.clone();
    forgetful.as_object_mut().unwrap().remove("healthCheckNodePort");
    change("services", service(balanced), service(forgetful), &[]);
    let dual = json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "PreferDualStack"});
    let mut single = dual.clone();
    single["clusterIPs"] = json!(["10.0.0.1"]);
    single["ipFamilies"] = json!(["IPv4"]);
    let why = "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the secondary";
    change("services", service(dual.clone()), service(single.clone()), &[why, why]);
    single["ipFamilyPolicy"] = "SingleStack".into();
    change("services", service(dual), service(single), &[]);
}

fn named(name: &str, rest: Value) -> Object {
    let mut made = object(rest);
    made.set(&["metadata", "name"], name.into());
    made
}

#[test]
fn what_the_rest_of_core_is_refused_for() {
    let in_b = json!({"namespace": "b"});
    let volume = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "local": {"path": "/a"}});
    let limits = |item: Value| json!({"metadata": in_b, "spec": {"limits": [item]}});
    for (resource, body, expected) in [
        (
            "secrets",
            json!({"metadata": in_b, "type": "kubernetes.io/dockercfg", "data": {".dockercfg": ""}}),
            "data[.dockercfg]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input",
        ),
        (
            "secrets",
            json!({"metadata": in_b, "type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}}),
            "data[ssh-privatekey]: Required value",
        ),
        (
            "configmaps",
            json!({"metadata": in_b, "data": {"a": ""}, "binaryData": {"a": ""}}),
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
        ),
        ("persistentvolumes", json!({"spec": volume}), "spec.nodeAffinity: Required value: Local volume requires node affinity"),
        (
            "persistentvolumeclaims",
            json!({"metadata": in_b, "spec": {"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"], "resources": {"requests": {"storage": "1Gi"}}}}),
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ),
        (
            "persistentvolumeclaims",
            json!({"metadata": in_b, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "0"}}}}),
            "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
        ),
        (
            "limitranges",
            limits(json!({"type": "X"})),
            "spec.limits[0].type: Invalid value: \"X\": must be a standard limit type or fully qualified",
        ),
        (
            "limitranges",
            limits(json!({"type": "PersistentVolumeClaim"})),
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        ),
        (
            "limitranges",
            limits(json!({"type": "Pod", "default": {"cpu": "1"}})),
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            "limitranges",
            limits(json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}})),
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
        ),
        (
            "resourcequotas",
            json!({"metadata": in_b, "spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}}),
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        (
            "resourcequotas",
            json!({"metadata": in_b, "spec": {"hard": {"secrets": "1"}, "scopes": ["BestEffort"]}}),
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        ),
        (
            "resourcequotas",
            json!({"metadata": in_b, "spec": {"hard": {"pods": "1500m"}}}),
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
        ),
        (
            "nodes",
            json!({"spec": {"taints": [{"key": "a", "effect": "X"}]}}),
            "metadata.taints[0].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ),
        (
            "nodes",
            json!({"spec": {"podCIDRs": ["10.0.0.0"]}}),
            "spec.podCIDRs[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ),
        (
            "endpoints",
            json!({"metadata": in_b, "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{}]}]}),
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
    ] {
        says(resource, named("a", body), &[expected]);
    }
}

#[test]
fn what_an_ingress_is_refused_for() {
    let path = |more: Value| {
        let mut path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}});
        for (key, value) in more.as_object().unwrap() {
            path[key] = value.clone();
        }
        json!({"rules": [{"http": {"paths": [path]}}]})
    };
    let backend = "spec.rules[0].http.paths[0].backend";
    for (spec, expected) in [
        (path(json!({"backend": {}})), format!("{backend}: Invalid value: \"\": resource or service backend is required")),
        (path(json!({"backend": {"service": {"name": "s"}}})), format!("{backend}: Required value: port name or number is required")),
        (path(json!({"path": "/a/.."})), "spec.rules[0].http.paths[0].path: Invalid value: \"/a/..\": cannot end with '/..'".to_owned()),
    ] {
        says("ingresses.networking.k8s.io", named("a", json!({"metadata": {"namespace": "b"}, "spec": spec})), &[&expected]);
    }
}

#[test]
fn a_claim_grows_when_it_is_bound_and_hardly_shrinks() {
    let claim = |size: &str, phase: &str| {
        named(
            "a",
            json!({"metadata": {"namespace": "b"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
                "status": {"phase": phase, "capacity": {"storage": "2Gi"}}}),
        )
    };
    let immutable =
        "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    change("persistentvolumeclaims", claim("2Gi", "Pending"), claim("3Gi", "Pending"), &[immutable]);
    change("persistentvolumeclaims", claim("2Gi", "Bound"), claim("3Gi", "Bound"), &[]);
    change("persistentvolumeclaims", claim("4Gi", "Bound"), claim("3Gi", "Bound"), &[]);
    let shrunk = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
    change("persistentvolumeclaims", claim("2Gi", "Bound"), claim("1Gi", "Bound"), &[shrunk]);
}

#[test]
fn what_a_workload_is_refused_for() {
    let mut claims = deployment(json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
    claims.set(
        &["spec", "template", "spec", "containers"],
        json!([{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]),
    );
    says("statefulsets.apps", claims, &[]);
    for (resource, spec, expected) in [
        (
            "deployments.apps",
            json!({"strategy": {"type": "X"}}),
            "spec.strategy: Unsupported value: {\"type\":\"X\"}: supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        (
            "statefulsets.apps",
            json!({"updateStrategy": {"type": "X"}}),
            "spec.updateStrategy: Invalid value: {\"type\":\"X\"}: must be 'RollingUpdate' or 'OnDelete'",
        ),
        (
            "statefulsets.apps",
            json!({"podManagementPolicy": "X"}),
            "spec.podManagementPolicy: Invalid value: \"X\": must be 'OrderedReady' or 'Parallel'",
        ),
        (
            "daemonsets.apps",
            json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
        ),
        (
            "daemonsets.apps",
            json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ),
    ] {
        says(resource, deployment(spec), &[expected]);
    }
    let mut labelled = deployment(json!({}));
    labelled.set(&["spec", "template", "metadata", "labels", "y"], "-".into());
    faults("deployments.apps", labelled, &["spec.template.labels: Invalid value: \"-\": a valid label must be"]);
}

/// Whoever writes an object says how long its lists are. Looked through once for each entry, these take longer than a test may.
#[test]
fn long_lists_are_looked_through_once() {
    const LONG: usize = 100_000;
    let families = vec![json!("IPv4"); LONG];
    let kind = kind("services");
    let spec = json!({"ports": [{"port": 80}], "ipFamilies": families});
    let told = kind.validate(&service(spec));
    assert_eq!(told[0].to_string(), "spec.ipFamilies[1]: Duplicate value: \"IPv4\"");
    let numbered = |entry: &dyn Fn(usize) -> Value| (0..LONG).map(entry).collect::<Value>();
    let container = json!({"name": "c", "image": "i",
        "volumeMounts": numbered(&|n| json!({"name": "v", "mountPath": format!("/m{n}")})),
        "volumeDevices": numbered(&|n| json!({"name": format!("d{n}"), "devicePath": format!("/d{n}")}))});
    let told = super::kind("pods").validate(&pod(json!({"containers": [container]})));
    assert!(told[0].to_string().starts_with("spec.containers[0].volumeMounts[0].name: Not found: \"v\""), "{}", told[0]);
}
