//! Our protobuf against that of `k8s-pb`, which others generate from upstream's definitions: it must read what we write, and we what it writes.

use std::collections::BTreeSet;

use k8s_pb::api;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::decode::{self, FieldValidation};
use crate::kinds::Kinds;
use crate::kinds::fuzz::{Dice, message};

/// A bare message through the other codec.
fn again<M: prost::Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).expect("the other codec reads our bytes").encode_to_vec()
}

macro_rules! others {
    ($($group:literal $version:ident $module:path: $($kind:ident)+;)+) => {
        /// The bytes as the other codec writes them again; none for a kind that it does not have.
        fn through_other(group: &str, version: &str, kind: &str, bytes: &[u8]) -> Option<Vec<u8>> {
            $({
                use $module as module;
                match kind {
                    $(stringify!($kind) if group == $group && version == stringify!($version) => return Some(again::<module::$kind>(bytes)),)+
                    _ => {}
                }
            })+
            None
        }
    };
}

others! {
    "" v1 api::core::v1: Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
        PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
    "admissionregistration.k8s.io" v1 api::admissionregistration::v1: MutatingWebhookConfiguration ValidatingAdmissionPolicy
        ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
    "admissionregistration.k8s.io" v1 api::admissionregistration::v1beta1: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding;
    "apps" v1 api::apps::v1: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
    "authentication.k8s.io" v1 api::authentication::v1: SelfSubjectReview TokenReview;
    "authorization.k8s.io" v1 api::authorization::v1: LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
        SubjectAccessReview;
    "autoscaling" v1 api::autoscaling::v1: HorizontalPodAutoscaler;
    "autoscaling" v2 api::autoscaling::v2: HorizontalPodAutoscaler;
    "batch" v1 api::batch::v1: CronJob Job;
    "certificates.k8s.io" v1 api::certificates::v1: CertificateSigningRequest;
    "certificates.k8s.io" v1 api::certificates::v1beta1: ClusterTrustBundle PodCertificateRequest;
    "coordination.k8s.io" v1 api::coordination::v1: Lease;
    "discovery.k8s.io" v1 api::discovery::v1: EndpointSlice;
    "events.k8s.io" v1 api::events::v1: Event;
    "flowcontrol.apiserver.k8s.io" v1 api::flowcontrol::v1: FlowSchema PriorityLevelConfiguration;
    "networking.k8s.io" v1 api::networking::v1: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
    "node.k8s.io" v1 api::node::v1: RuntimeClass;
    "policy" v1 api::policy::v1: PodDisruptionBudget;
    "rbac.authorization.k8s.io" v1 api::rbac::v1: ClusterRole ClusterRoleBinding Role RoleBinding;
    "resource.k8s.io" v1 api::resource::v1: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
    "resource.k8s.io" v1 api::resource::v1alpha3: DeviceTaintRule;
    "scheduling.k8s.io" v1 api::scheduling::v1: PriorityClass;
    "storagemigration.k8s.io" v1 api::storagemigration::v1beta1: StorageVersionMigration;
    "storage.k8s.io" v1 api::storage::v1: CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass;
    "apiextensions.k8s.io" v1 k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1: CustomResourceDefinition;
}

/// Kinds that the other codec does not have: it leaves out the aggregator.
const NEW_KINDS: &[&str] = &["APIService", "NodeMetrics", "PodMetrics"];

/// Fields that are younger than the other codec, which passes over them.
const NEW_FIELDS: &[&str] = &[
    "CSIDriverSpec.preventPodSchedulingIfMissing",
    "CSINode.status",
    "ClusterTrustBundleProjection.user",
    "ConfigMapVolumeSource.defaultUser",
    "Device.nodeAllocatableResources",
    "DeviceAttribute.bools",
    "DeviceAttribute.ints",
    "DeviceAttribute.strings",
    "DeviceAttribute.versions",
    "DeviceRequestAllocationResult.skipNodeOperations",
    "DownwardAPIVolumeFile.user",
    "DownwardAPIVolumeSource.defaultUser",
    "EmptyDirVolumeSource.mode",
    "GRPCAction.mode",
    "HTTPGetAction.protocol",
    "HorizontalPodAutoscalerCondition.observedGeneration",
    "JobSpec.scheduling",
    "KeyToPath.user",
    "NodeSpec.podPreemptionPolicy",
    "PersistentVolumeClaimStatus.healthStatus",
    "PodCertificateProjection.user",
    "PodCertificateRequestSpec.stubPKCS10Request",
    "PodSpec.evictionResponders",
    "PodSpec.schedulingGroup",
    "PodStatus.nodeAllocatableResourceClaimStatuses",
    "PodStatus.volumeHealth",
    "ProjectedVolumeSource.defaultUser",
    "ResourceHealth.message",
    "ResourceSliceSpec.partitionTypeAttribute",
    "ResourceSliceSpec.skipNodeOperations",
    "SecretVolumeSource.defaultUser",
    "ServiceAccountTokenProjection.user",
    "VolumeMount.bindMountOptions",
    "VolumeMountStatus.volumeStatus",
];

/// A message with every field set to something; a message in itself is left out.
fn full(id: MessageId, around: &mut Vec<MessageId>) -> Value {
    around.push(id);
    let mut map = serde_json::Map::new();
    for field in Schema::get().by_id(id).json_fields() {
        let one = match field.ty {
            Type::Message(inner) if around.contains(&inner) => continue,
            Type::Message(inner) => full(inner, around),
            Type::Bool => true.into(),
            Type::Int32 | Type::Int64 | Type::IntOrString => 7.into(),
            Type::Double => 0.5.into(),
            Type::String => "x".into(),
            Type::Bytes => "eA==".into(),
            Type::Time => "2026-01-01T00:00:00Z".into(),
            Type::MicroTime => "2026-01-01T00:00:00.000001Z".into(),
            Type::Duration => "1h2m3.5s".into(),
            Type::Quantity => "100m".into(),
            Type::RawExtension | Type::FieldsV1 | Type::Any => json!({"a": 1}),
            Type::Strings(_) => json!(["x", "y"]),
            Type::Union(_) if field.json == "items" => json!({"type": "x"}),
            Type::Union(_) if field.json == "dependencies" => json!(["x"]),
            Type::Union(_) => true.into(),
        };
        let value = match field.label {
            Label::Optional => one,
            Label::Repeated => json!([one]),
            Label::Map => json!({"k": one}),
        };
        map.insert(field.json.to_owned(), value);
    }
    around.pop();
    map.into()
}

#[test]
fn every_field_of_every_kind_passes_through_the_other_codec() {
    let (mut fields, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for kind in Kinds::builtin().iter() {
        let id = kind.message.expect("built-in kinds have a message");
        let mut sent = full(id, &mut Vec::new());
        sent["apiVersion"] = kind.api_version().into();
        sent["kind"] = kind.kind.as_ref().into();
        let mut raw = Vec::new();
        json(id, sent.to_string().as_bytes(), &mut raw).unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        let enveloped = |raw: &[u8]| super::enveloped(&kind.api_version(), &kind.kind, raw);
        assert_eq!(decode::value_from_protobuf(&enveloped(&raw)).expect("our own bytes"), sent, "{kind:?}");
        match through_other(&kind.group, &kind.version, &kind.kind, &raw) {
            Some(other) => {
                let other = decode::value_from_protobuf(&enveloped(&other)).expect("the other codec's bytes");
                lost(id, &sent, &other, &kind.kind, &mut fields);
            }
            None => {
                kinds.insert(kind.kind.to_string());
            }
        }
    }
    assert_eq!(fields.iter().map(String::as_str).collect::<Vec<_>>(), NEW_FIELDS, "fields that only we have");
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), NEW_KINDS, "kinds that only we have");
}

/// Nothing and the zero of a type are one in protobuf.
fn without_zeros(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(without_zeros);
            map.retain(|_, value| !is_zero(value));
        }
        Value::Array(list) => list.iter_mut().for_each(without_zeros),
        _ => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Fields that `other` has lost, as `Message.field`; whatever else differs is a failure.
fn lost(id: MessageId, ours: &Value, other: &Value, path: &str, found: &mut BTreeSet<String>) {
    let message = Schema::get().by_id(id);
    let (Some(ours), Some(other)) = (ours.as_object(), other.as_object()) else { panic!("{path}: {ours} became {other}") };
    for key in other.keys() {
        assert!(ours.contains_key(key), "{path}.{key} came from nowhere");
    }
    for (key, value) in ours {
        let Some(field) = message.field(key) else {
            assert_eq!(Some(value), other.get(key), "{path}.{key}");
            continue;
        };
        let path = format!("{path}.{key}");
        match (other.get(key), field.ty) {
            (None, _) => {
                found.insert(format!("{}.{key}", message.name.rsplit('.').next().unwrap_or_default()));
            }
            (Some(other), Type::Message(id)) => match (field.label, value, other) {
                (Label::Optional, ..) => lost(id, value, other, &path, found),
                (_, Value::Array(ours), Value::Array(other)) => {
                    assert_eq!(ours.len(), other.len(), "{path}");
                    ours.iter().zip(other).for_each(|(ours, other)| lost(id, ours, other, &path, found));
                }
                (_, Value::Object(ours), Value::Object(other)) => {
                    assert!(ours.keys().eq(other.keys()), "{path}");
                    ours.values().zip(other.values()).for_each(|(ours, other)| lost(id, ours, other, &path, found));
                }
                _ => panic!("{path}: {value} became {other}"),
            },
            (Some(other), _) => assert_eq!(value, other, "{path}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_objects_of_every_kind_pass_through_the_other_codec(seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let mut fields_lost = BTreeSet::new();
        for kind in Kinds::builtin().iter() {
            let id = kind.message.expect("built-in kinds have a message");
            let object = decode::conform(message(id, &mut dice, 0), kind, FieldValidation::Strict).expect("made by the schema").object;
            let mut raw = Vec::new();
            json(id, &object.to_bytes(), &mut raw).unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
            let enveloped = |raw: &[u8]| super::enveloped(&kind.api_version(), &kind.kind, raw);
            let back = decode::value_from_protobuf(&enveloped(&raw)).expect("our own bytes");
            let (mut sent, mut came) = (object.clone().into_value(), back.clone());
            without_zeros(&mut sent);
            without_zeros(&mut came);
            assert_eq!(sent, came, "{kind:?}: our own way back");
            assert_eq!(value(&object.into_value()).expect("a known kind"), enveloped(&raw), "{kind:?}: from a value as from text");
            match through_other(&kind.group, &kind.version, &kind.kind, &raw) {
                Some(other) => {
                    let other = decode::value_from_protobuf(&enveloped(&other)).expect("the other codec's bytes");
                    lost(id, &back, &other, &kind.kind, &mut fields_lost);
                }
                None => assert!(NEW_KINDS.contains(&&*kind.kind), "{kind:?} is not held against the other codec"),
            }
        }
        let unexpected: Vec<_> = fields_lost.iter().filter(|field| !NEW_FIELDS.contains(&field.as_str())).collect();
        assert!(unexpected.is_empty(), "the other codec does not read {unexpected:?}");
    }
}

/// What `json` says, as the other codec sees it.
fn seen<M: prost::Message + Default>(api_version: &str, kind: &str, json: &Value) -> M {
    let mut raw = Vec::new();
    super::json(message_of(api_version, kind).unwrap(), json.to_string().as_bytes(), &mut raw).unwrap();
    M::decode(&raw[..]).unwrap()
}

#[test]
fn zeros_that_say_something_are_kept() {
    let claim: api::core::v1::PersistentVolumeClaim = seen("v1", "PersistentVolumeClaim", &json!({"spec": {"storageClassName": ""}}));
    assert_eq!(claim.spec.unwrap().storage_class_name.as_deref(), Some(""));
    let pod: api::core::v1::Pod =
        seen("v1", "Pod", &json!({"spec": {"enableServiceLinks": false, "volumes": [{"name": "v", "emptyDir": {}}]}}));
    let spec = pod.spec.unwrap();
    assert_eq!(spec.enable_service_links, Some(false));
    assert!(spec.volumes[0].volume_source.as_ref().unwrap().empty_dir.is_some());
}

#[test]
fn wrapped_types_are_what_go_makes_of_them() {
    let service: api::core::v1::Service = seen(
        "v1",
        "Service",
        &json!({
            "metadata": {
                "name": "web",
                "creationTimestamp": "1970-01-01T00:00:00Z",
                "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8080}]},
        }),
    );
    let metadata = service.metadata.unwrap();
    assert_eq!((metadata.creation_timestamp.unwrap().seconds, metadata.name()), (Some(0), "web"));
    assert_eq!(metadata.managed_fields[0].fields_v1.as_ref().unwrap().raw(), br#"{"f:spec":{}}"#);
    let ports: Vec<_> = service.spec.unwrap().ports.into_iter().map(|port| port.target_port.unwrap()).collect();
    assert_eq!((ports[0].r#type(), ports[0].str_val()), (1, "http"));
    assert_eq!((ports[1].r#type(), ports[1].int_val()), (0, 8080));
    let lease: api::coordination::v1::Lease =
        seen("coordination.k8s.io/v1", "Lease", &json!({"spec": {"renewTime": "1969-12-31T23:59:59.500000Z"}}));
    let renewed = lease.spec.unwrap().renew_time.unwrap();
    assert_eq!((renewed.seconds(), renewed.nanos()), (-1, 500_000_000));
    let pod: api::core::v1::Pod = seen(
        "v1",
        "Pod",
        &json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "100m"}}}], "tolerations": [{"tolerationSeconds": -1}]}}),
    );
    let spec = pod.spec.unwrap();
    assert_eq!(spec.tolerations[0].toleration_seconds, Some(-1));
    assert_eq!(spec.containers[0].resources.as_ref().unwrap().limits["cpu"].string(), "100m");
}

#[test]
fn the_envelope_lists_and_frames_are_read_by_the_other_codec() {
    let mut raw = Vec::new();
    list_metadata(&json!({"resourceVersion": "7", "remainingItemCount": 3}), &mut raw).unwrap();
    let id = message_of("v1", "ConfigMap").unwrap();
    for name in ["a".to_owned(), "b".repeat(300)] {
        let text = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        list_item(&mut raw, |out| json(id, text.as_bytes(), out)).unwrap();
    }
    let bytes = enveloped("v1", "ConfigMapList", &raw);
    let unknown = k8s_pb::apimachinery::pkg::runtime::Unknown::decode(bytes.strip_prefix(b"k8s\0").unwrap()).unwrap();
    let ty = unknown.type_meta.as_ref().unwrap();
    assert_eq!((ty.api_version(), ty.kind()), ("v1", "ConfigMapList"));
    let list = api::core::v1::ConfigMapList::decode(unknown.raw()).unwrap();
    let metadata = list.metadata.unwrap();
    assert_eq!((metadata.resource_version(), metadata.remaining_item_count), ("7", Some(3)));
    let names: Vec<_> = list.items.into_iter().map(|item| item.metadata.unwrap().name.unwrap()).collect();
    assert_eq!(names, ["a".to_owned(), "b".repeat(300)]);

    let frame = watch_event("ADDED", &bytes);
    let (length, event) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let event = k8s_pb::apimachinery::pkg::apis::meta::v1::WatchEvent::decode(event).unwrap();
    assert_eq!((event.r#type(), event.object.as_ref().unwrap().raw()), ("ADDED", &bytes[..]));
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_field() {
    let id = message_of("v1", "Pod").unwrap();
    for (text, field) in [
        (r#"{"spec": {"priority": "x"}}"#, "priority"),
        (r#"{"spec": {"hostNetwork": 1}}"#, "hostNetwork"),
        (r#"{"metadata": {"creationTimestamp": "soon"}}"#, "creationTimestamp"),
        (r#"{"spec": {"containers": {}}}"#, "containers"),
    ] {
        let error = json(id, text.as_bytes(), &mut Vec::new()).expect_err(text);
        let EncodeError::Field(source) = error else { panic!("{error:?}") };
        assert!(source.to_string().contains(field), "{source}");
    }
    assert!(matches!(value(&json!({"apiVersion": "x.io/v1", "kind": "Nonsense"})), Err(EncodeError::NoMessage { .. })));
}
