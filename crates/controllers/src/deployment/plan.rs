//! What to do for one Deployment, from what is there.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt as _;

use super::{DESIRED, HASH_LABEL, MAX, NOT_COPIED, REVISION, REVISION_HISTORY, status};
use crate::owner;

/// Old sets kept for undo where the Deployment does not say (its defaulted value upstream).
const HISTORY_DEFAULT: i32 = 10;

/// One request.
#[derive(Debug)]
pub(super) enum Step {
    Create { hash: String, replicas: i32, annotations: BTreeMap<String, String> },
    Adopt { set: Arc<ReplicaSet> },
    Scale { set: Arc<ReplicaSet>, from: i32, to: i32, annotations: BTreeMap<String, String> },
    Annotate { set: Arc<ReplicaSet>, annotations: BTreeMap<String, String>, min_ready_seconds: i32 },
    Delete { set: Arc<ReplicaSet> },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { replicas, .. } => write!(f, "create the new set with {replicas}"),
            Self::Adopt { set } => write!(f, "adopt {}", set.name_any()),
            Self::Scale { set, from, to, .. } => write!(f, "scale {} from {from} to {to}", set.name_any()),
            Self::Annotate { set, .. } => write!(f, "annotate {}", set.name_any()),
            Self::Delete { set } => write!(f, "delete {}", set.name_any()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The Deployment's revision annotation, when it is to change.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    pub(super) wake: Option<Duration>,
}

/// A set, with the replicas that it is to have.
#[derive(Clone, Debug)]
pub(super) struct Sized {
    pub(super) set: Arc<ReplicaSet>,
    pub(super) replicas: i32,
}

impl Sized {
    fn spec_replicas(&self) -> i32 {
        replicas(&self.set)
    }
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// How many pods more and fewer than wanted a rolling update may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

impl Room {
    /// Percentages of `wanted`; the surge is rounded up, what may be unavailable down. Both zero would stand still: one may then be unavailable.
    pub(super) fn of(spec: &DeploymentSpec, wanted: i32) -> Self {
        if is_recreate(spec) {
            return Self { surge: 0, unavailable: 0 };
        }
        let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), wanted, true);
        let unavailable = scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), wanted, false);
        if surge == 0 && unavailable == 0 { Self { surge, unavailable: 1 } } else { Self { surge, unavailable: unavailable.min(wanted) } }
    }
}

/// A quarter where nothing is said, as the API defaults it.
fn scaled(value: Option<&IntOrString>, wanted: i32, up: bool) -> i32 {
    let percent = |percent: i32| {
        let product = i64::from(percent) * i64::from(wanted) + if up { 99 } else { 0 };
        i32::try_from(product / 100).unwrap_or(i32::MAX)
    };
    match value {
        None => percent(25),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse().map_or(0, percent),
    }
}

pub(super) fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// `sets` are those of the Deployment's namespace.
pub(super) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Plan {
    let spec = &deployment.spec;
    let deleting = deployment.metadata.deletion_timestamp.is_some();
    let mut steps = Vec::new();
    let mut owned: Vec<Arc<ReplicaSet>> = Vec::new();
    for set in sets.iter().filter(|set| set.metadata.deletion_timestamp.is_none()) {
        if owner::controlled_by(&set.metadata, deployment) {
            owned.push(set.clone());
        } else if owner::controller(&set.metadata).is_none() && owner::selects(&spec.selector, &set.metadata) && !deleting {
            steps.push(Step::Adopt { set: set.clone() });
            owned.push(set.clone());
        }
    }
    owned.sort_by_key(|set| (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.name_any()));
    let new = owned.iter().find(|set| same_template(set.spec.template.as_ref(), Some(&spec.template))).cloned();
    let is_new = |set: &Arc<ReplicaSet>| new.as_ref().is_some_and(|new| new.metadata.uid == set.metadata.uid);
    let old: Vec<_> = owned.iter().filter(|set| !is_new(set)).cloned().collect();

    let mut revision = None;
    if !deleting {
        revision = new_revision(deployment, spec, new.as_ref(), &old, &mut steps);
        size(spec, new.as_ref(), &old, &mut steps);
        if spec.paused != Some(true) {
            steps.extend(history(spec, new.as_ref(), &old));
        }
    }
    let mut wake = None;
    let status = status::status(deployment, spec, new.as_deref(), &owned, now, &mut wake);
    Plan { steps, revision, status, wake }
}

/// Equal but for the label that the controller itself adds.
pub(super) fn same_template(one: Option<&PodTemplateSpec>, other: Option<&PodTemplateSpec>) -> bool {
    let bare = |template: Option<&PodTemplateSpec>| {
        let mut template = template.cloned().unwrap_or_default();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels.take_if(|labels| labels.is_empty());
        meta.creation_timestamp = None;
        template
    };
    bare(one) == bare(other)
}

fn revision_of(annotations: &BTreeMap<String, String>) -> i64 {
    annotations.get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// Sees to it that there is a set for the template, and that it carries the highest revision. Returns the Deployment's own revision, if it is to change.
fn new_revision(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    steps: &mut Vec<Step>,
) -> Option<String> {
    let newest_old = old.iter().map(|set| revision_of(set.annotations())).max().unwrap_or(0);
    let target = match new {
        Some(set) => revision_of(set.annotations()).max(newest_old + 1),
        None if spec.paused == Some(true) => return None,
        None => newest_old + 1,
    };
    let mut annotations: BTreeMap<String, String> = deployment
        .annotations()
        .iter()
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    annotations.insert(REVISION.to_owned(), target.to_string());
    match new {
        Some(set) => {
            let before = revision_of(set.annotations());
            if before != target {
                // Templates can come back: a set remembers the revisions it stood for.
                let history: Vec<_> =
                    set.annotations().get(REVISION_HISTORY).into_iter().cloned().chain((before > 0).then(|| before.to_string())).collect();
                if !history.is_empty() {
                    annotations.insert(REVISION_HISTORY.to_owned(), history.join(","));
                }
            }
            let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
            let differs = annotations.iter().any(|(key, value)| set.annotations().get(key) != Some(value))
                || set.spec.min_ready_seconds.unwrap_or(0) != min_ready_seconds;
            if differs {
                steps.push(Step::Annotate { set: set.clone(), annotations, min_ready_seconds });
            }
        }
        None => {
            let wanted = spec.replicas.unwrap_or(1);
            let room = Room::of(spec, wanted);
            annotations.extend(sizes(wanted, room));
            let present: i32 = old.iter().map(|set| replicas(set)).sum();
            let pods_left: i32 = old.iter().map(|set| set.status.as_ref().map_or(0, |status| status.replicas)).sum();
            let first = if is_recreate(spec) {
                if present == 0 && pods_left == 0 { wanted } else { 0 }
            } else {
                (wanted + room.surge - present).clamp(0, wanted)
            };
            steps.push(Step::Create {
                hash: hash(&spec.template, deployment.status.as_ref().and_then(|status| status.collision_count)),
                replicas: first,
                annotations,
            });
        }
    }
    (revision_of(deployment.annotations()) != target).then(|| target.to_string())
}

fn sizes(wanted: i32, room: Room) -> [(String, String); 2] {
    [(DESIRED.to_owned(), wanted.to_string()), (MAX.to_owned(), (wanted + room.surge).to_string())]
}

/// Sizes every set. Nothing is sized while the new set does not exist: that is the next turn's work, but for a Recreate, which first scales down.
fn size(spec: &DeploymentSpec, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>], steps: &mut Vec<Step>) {
    let wanted = spec.replicas.unwrap_or(1);
    let room = Room::of(spec, wanted);
    let mut targets: Vec<Sized> = old.iter().chain(new).map(|set| Sized { set: set.clone(), replicas: replicas(set) }).collect();
    let paused = spec.paused == Some(true);
    if paused || is_scaling(&targets, wanted) {
        proportional(&mut targets, new, wanted, room);
    } else if is_recreate(spec) {
        recreate(&mut targets, new, wanted);
    } else if new.is_some() {
        rolling(&mut targets, new, wanted, room);
    }
    for target in targets {
        let from = target.spec_replicas();
        let annotations: BTreeMap<_, _> = sizes(wanted, room).into();
        let marked = annotations.iter().all(|(key, value)| target.set.annotations().get(key) == Some(value));
        if from != target.replicas {
            steps.push(Step::Scale { set: target.set, from, to: target.replicas, annotations });
        } else if !marked && from > 0 {
            steps.push(Step::Scale { set: target.set, from, to: from, annotations });
        }
    }
}

/// Whether the Deployment was scaled since the sets were sized.
fn is_scaling(targets: &[Sized], wanted: i32) -> bool {
    targets
        .iter()
        .filter(|target| target.spec_replicas() > 0)
        .filter_map(|target| target.set.annotations().get(DESIRED)?.parse::<i32>().ok())
        .any(|desired| desired != wanted)
}

fn is_set(target: &Sized, set: Option<&Arc<ReplicaSet>>) -> bool {
    set.is_some_and(|set| set.metadata.uid == target.set.metadata.uid)
}

/// Spreads a change of size over the sets that have pods, each by its share, so that scaling in the middle of an update keeps its proportions.
fn proportional(targets: &mut [Sized], new: Option<&Arc<ReplicaSet>>, wanted: i32, room: Room) {
    let active: Vec<usize> = (0..targets.len()).filter(|index| targets[*index].replicas > 0).collect();
    match active[..] {
        [] => {
            // Nothing runs: the newest set takes all.
            let last = targets.iter().position(|target| is_set(target, new)).or(targets.len().checked_sub(1));
            if let Some(last) = last {
                targets[last].replicas = wanted;
            }
            return;
        }
        [only] => {
            targets[only].replicas = wanted;
            return;
        }
        _ => {}
    }
    let allowed = if wanted > 0 { wanted + room.surge } else { 0 };
    let present: i32 = targets.iter().map(|target| target.replicas).sum();
    let mut left = allowed - present;
    // The largest first when growing, and when shrinking the smallest last: what rounding leaves goes to the first.
    let mut order = active;
    order.sort_by_key(|index| std::cmp::Reverse((targets[*index].replicas, *index)));
    for index in &order {
        let target = &mut targets[*index];
        let before = target.set.annotations().get(MAX).and_then(|max| max.parse().ok()).filter(|max| *max > 0).unwrap_or(present);
        let share = f64::from(target.replicas) * f64::from(allowed) / f64::from(before) - f64::from(target.replicas);
        let share = (share.round() as i32).clamp(left.min(0), left.max(0));
        target.replicas = (target.replicas + share).max(0);
        left -= share;
    }
    if left != 0
        && let Some(first) = order.first()
    {
        targets[*first].replicas = (targets[*first].replicas + left).max(0);
    }
}

/// All old pods go before the first new one comes.
fn recreate(targets: &mut [Sized], new: Option<&Arc<ReplicaSet>>, wanted: i32) {
    let running = |target: &Sized| target.replicas > 0 || target.set.status.as_ref().is_some_and(|status| status.replicas > 0);
    let mut old_running = false;
    for target in targets.iter_mut().filter(|target| !is_set(target, new)) {
        old_running |= running(target) || target.set.status.as_ref().is_some_and(|status| status.terminating_replicas.unwrap_or(0) > 0);
        target.replicas = 0;
    }
    if !old_running && let Some(target) = targets.iter_mut().find(|target| is_set(target, new)) {
        target.replicas = wanted;
    }
}

/// Grows the new set as far as the surge allows, and shrinks the old ones as far as enough pods stay available. Both at once: neither waits for a turn.
fn rolling(targets: &mut [Sized], new: Option<&Arc<ReplicaSet>>, wanted: i32, room: Room) {
    let present: i32 = targets.iter().map(|target| target.replicas).sum();
    let Some(index) = targets.iter().position(|target| is_set(target, new)) else { return };
    if targets[index].replicas > wanted {
        targets[index].replicas = wanted;
    } else {
        let grow = (wanted + room.surge - present).clamp(0, wanted - targets[index].replicas);
        targets[index].replicas += grow;
    }
    let new_set = targets[index].set.clone();
    let new_unavailable = replicas(&new_set) - available(&new_set);
    let all: i32 = targets.iter().map(Sized::spec_replicas).sum();
    let mut may_go = all - (wanted - room.unavailable) - new_unavailable.max(0);
    // Pods that do not work are replaced first: they serve nobody.
    for pass in [true, false] {
        if !pass {
            let up: i32 = targets.iter().map(|target| available(&target.set)).sum();
            let went: i32 = targets
                .iter()
                .filter(|target| !is_set(target, new))
                .map(|target| (target.spec_replicas() - target.replicas - unavailable(target)).max(0))
                .sum();
            may_go = may_go.min(up - (wanted - room.unavailable) - went);
        }
        for target in targets.iter_mut().filter(|target| !is_set(target, new)) {
            let most = if pass { unavailable(target).min(target.replicas) } else { target.replicas };
            let go = most.clamp(0, may_go.max(0));
            target.replicas -= go;
            may_go -= go;
        }
    }
}

fn unavailable(target: &Sized) -> i32 {
    (target.spec_replicas() - available(&target.set)).max(0)
}

/// Old sets without pods beyond the history's limit go, oldest revision first.
fn history(spec: &DeploymentSpec, new: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> Vec<Step> {
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(HISTORY_DEFAULT)).unwrap_or(0);
    let complete = new.is_some_and(|new| {
        let wanted = spec.replicas.unwrap_or(1);
        replicas(new) == wanted
            && available(new) >= wanted
            && old.iter().all(|set| set.status.as_ref().is_none_or(|status| status.replicas == 0))
    });
    if !complete {
        return Vec::new();
    }
    let mut idle: Vec<_> =
        old.iter().filter(|set| replicas(set) == 0 && set.status.as_ref().is_none_or(|status| status.replicas == 0)).collect();
    idle.sort_by_key(|set| revision_of(set.annotations()));
    let surplus = idle.len().saturating_sub(limit);
    idle.into_iter().take(surplus).map(|set| Step::Delete { set: set.clone() }).collect()
}

/// A name for a template: FNV-1a of its JSON and the number of collisions so far, in letters that form no word, as upstream's names look.
fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let json = serde_json::to_vec(template).expect("an API type has a JSON form");
    let salt = collisions.map_or(0, |count| count).to_le_bytes();
    let hash = json.iter().chain(&salt).fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}
