//! Sets of field paths, and the form in which `metadata.managedFields` stores them (`FieldsV1`).
//!
//! A set is a tree: each step of a path is a [`Step`], and each node says whether the path that ends there belongs to the set.
//! In `FieldsV1` a step is the key of a JSON object: `f:name` a field, `k:{…}` an item of a list by its key fields, `v:…` an item of a
//! set by its value, `i:3` an item by position; `.` marks a node that belongs to the set although longer paths do too.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};

/// Steps in one path. Deeper sets are refused: a set is read recursively, and no schema of Kubernetes nests nearly as deep except
/// `JSONSchemaProps`, whose nesting the decoder limits to less than this.
const DEPTH_MAX: usize = 256;

/// One step of a path. Keys and values are canonical JSON (sorted keys, no white space), so that equal steps are equal text. Texts are shared:
/// every operation on sets copies steps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Field(Arc<str>),
    Key(Arc<str>),
    Value(Arc<str>),
    Index(u64),
}

/// A set of paths.
///
/// Nodes are few and come in order nearly always, so a sorted list is smaller and faster than a tree would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by step, each step once.
    nodes: Vec<(Step, Node)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

/// Why a text is not a field set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFieldsError {
    #[error("a field set is a JSON object, at {at:?}")]
    NotAnObject { at: String },
    #[error("{step:?} is not a step of a field path")]
    Step { step: String },
    #[error("the field set nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

impl Step {
    pub fn field(name: &str) -> Step {
        Step::Field(name.into())
    }

    /// The step to the item of a list whose key fields have these values.
    pub fn key(fields: Map<String, Value>) -> Step {
        Step::Key(Value::Object(fields).to_string().into())
    }

    pub fn value(value: &Value) -> Step {
        Step::Value(value.to_string().into())
    }

    fn parse(text: &str) -> Result<Step, ParseFieldsError> {
        let wrong = || ParseFieldsError::Step { step: text.to_owned() };
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        match kind {
            "f" => Ok(Step::field(rest)),
            "k" => match serde_json::from_str(rest) {
                Ok(Value::Object(fields)) => Ok(Step::key(fields)),
                _ => Err(wrong()),
            },
            "v" => serde_json::from_str(rest).map(|value| Step::value(&value)).map_err(|_| wrong()),
            "i" => rest.parse().map(Step::Index).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    fn encode(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(json) => format!("k:{json}"),
            Step::Value(json) => format!("v:{json}"),
            Step::Index(index) => format!("i:{index}"),
        }
    }
}

/// As conflicts name a path: `.spec.ports[port=80,protocol="TCP"].name`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(json) => {
                f.write_str("[")?;
                let fields: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
                for (n, (name, value)) in fields.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(f, "{comma}{name}={value}")?;
                }
                f.write_str("]")
            }
            Step::Value(json) => write!(f, "[={json}]"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl FieldSet {
    pub fn new() -> FieldSet {
        FieldSet::default()
    }

    /// Reads the `fieldsV1` of an entry of managedFields.
    pub fn parse(value: &Value) -> Result<FieldSet, ParseFieldsError> {
        FieldSet::parse_at(value, "", 0)
    }

    fn parse_at(value: &Value, at: &str, depth: usize) -> Result<FieldSet, ParseFieldsError> {
        if depth > DEPTH_MAX {
            return Err(ParseFieldsError::TooDeep);
        }
        let object = value.as_object().ok_or_else(|| ParseFieldsError::NotAnObject { at: at.to_owned() })?;
        let mut set = FieldSet::new();
        for (text, child) in object {
            if text == "." {
                continue;
            }
            let below = FieldSet::parse_at(child, text, depth + 1)?;
            let member = below.is_empty() || child.get(".").is_some();
            *set.node_mut(Step::parse(text)?) = Node { member, below };
        }
        Ok(set)
    }

    /// Writes the `fieldsV1` of an entry of managedFields.
    pub fn to_value(&self) -> Value {
        let encode = |(step, node): &(Step, Node)| {
            let mut below = node.below.to_value();
            if let (true, false, Some(object)) = (node.member, node.below.is_empty(), below.as_object_mut()) {
                object.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (step.encode(), below)
        };
        Value::Object(self.nodes.iter().map(encode).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where the step is, or belongs.
    fn place(&self, step: &Step) -> Result<usize, usize> {
        match self.nodes.last() {
            Some((last, _)) if last < step => Err(self.nodes.len()),
            _ => self.nodes.binary_search_by(|(have, _)| have.cmp(step)),
        }
    }

    fn node(&self, step: &Step) -> Option<&Node> {
        self.place(step).ok().map(|at| &self.nodes[at].1)
    }

    /// The node of the step, made if it is missing.
    fn node_mut(&mut self, step: Step) -> &mut Node {
        let at = self.place(&step).unwrap_or_else(|at| {
            self.nodes.insert(at, (step, Node::default()));
            at
        });
        &mut self.nodes[at].1
    }

    pub fn insert(&mut self, path: &[Step]) {
        let Some((step, rest)) = path.split_first() else { return };
        let node = self.node_mut(step.clone());
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    pub fn contains(&self, path: &[Step]) -> bool {
        let Some((step, rest)) = path.split_first() else { return false };
        self.node(step).is_some_and(|node| if rest.is_empty() { node.member } else { node.below.contains(rest) })
    }

    /// Whether the path of this one step belongs to the set.
    pub(super) fn has(&self, step: &Step) -> bool {
        self.node(step).is_some_and(|node| node.member)
    }

    /// The paths that begin with this step, without it.
    pub(super) fn below(&self, step: &Step) -> Option<&FieldSet> {
        self.node(step).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Adds the step as a path of its own, and everything in `below` behind it.
    pub(super) fn put(&mut self, step: Step, member: bool, below: FieldSet) {
        if !member && below.is_empty() {
            return;
        }
        let node = self.node_mut(step);
        node.member |= member;
        node.below.extend(below);
    }

    fn extend(&mut self, other: FieldSet) {
        if self.nodes.is_empty() {
            *self = other;
            return;
        }
        for (step, node) in other.nodes {
            self.put(step, node.member, node.below);
        }
    }

    /// Each first step, whether it belongs to the set by itself, and what lies behind it.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&Step, bool, &FieldSet)> {
        self.nodes.iter().map(|(step, node)| (step, node.member, &node.below))
    }

    #[must_use]
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut all = self.clone();
        all.extend(other.clone());
        all
    }

    /// The paths that are in both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut both = FieldSet::new();
        for (step, mine) in &self.nodes {
            if let Some(theirs) = other.node(step) {
                both.put(step.clone(), mine.member && theirs.member, mine.below.intersection(&theirs.below));
            }
        }
        both
    }

    /// The paths that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut left = self.clone();
        left.remove(other);
        left
    }

    /// Takes the paths of `other` out of the set.
    pub(super) fn remove(&mut self, other: &FieldSet) {
        self.cut(|step, node| {
            if let Some(theirs) = other.node(step) {
                node.member &= !theirs.member;
                node.below.remove(&theirs.below);
            }
        });
    }

    /// The paths that are neither in `other` nor behind one of its paths.
    #[must_use]
    pub fn without_subtrees(mut self, other: &FieldSet) -> FieldSet {
        self.remove_subtrees(other);
        self
    }

    fn remove_subtrees(&mut self, other: &FieldSet) {
        self.cut(|step, node| {
            if let Some(theirs) = other.node(step) {
                match theirs.member {
                    true => *node = Node::default(),
                    false => node.below.remove_subtrees(&theirs.below),
                }
            }
        });
    }

    /// Lets `less` take from each node, and drops those that nothing is left of.
    fn cut(&mut self, less: impl Fn(&Step, &mut Node)) {
        self.nodes.retain_mut(|(step, node)| {
            less(step, node);
            node.member || !node.below.is_empty()
        });
    }

    /// Every path, in order.
    pub fn paths(&self) -> Vec<Vec<Step>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<Step>, paths: &mut Vec<Vec<Step>>) {
        for (step, node) in &self.nodes {
            prefix.push(step.clone());
            if node.member {
                paths.push(prefix.clone());
            }
            node.below.collect(prefix, paths);
            prefix.pop();
        }
    }
}

/// A set of paths written out, for the few sets that are constants.
impl FromIterator<Vec<Step>> for FieldSet {
    fn from_iter<I: IntoIterator<Item = Vec<Step>>>(paths: I) -> FieldSet {
        let mut set = FieldSet::new();
        for path in paths {
            set.insert(&path);
        }
        set
    }
}

/// A path as conflicts name it.
pub(super) fn display_path(path: &[Step]) -> String {
    path.iter().map(Step::to_string).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> FieldSet {
        FieldSet::parse(&value).expect("a field set")
    }

    #[test]
    fn prints_what_it_read() {
        for value in [
            json!({}),
            json!({"f:spec": {"f:replicas": {}}}),
            json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}}),
            json!({"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}),
            json!({"f:finalizers": {"v:\"a\"": {}}, "f:list": {"i:3": {}}}),
        ] {
            assert_eq!(set(value.clone()).to_value(), value);
        }
    }

    #[test]
    fn reads_keys_in_any_spelling() {
        let loose = set(json!({"k:{ \"protocol\": \"TCP\", \"port\": 80 }": {}}));
        assert_eq!(loose.to_value(), json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}));
    }

    #[test]
    fn refuses_what_is_no_field_set() {
        for value in [json!([]), json!({"spec": {}}), json!({"x:spec": {}}), json!({"k:[1]": {}}), json!({"i:-1": {}}), json!({"f:a": 1})] {
            assert!(FieldSet::parse(&value).is_err(), "{value}");
        }
        let mut deep = json!({});
        for _ in 0..DEPTH_MAX + 2 {
            deep = json!({"f:a": deep});
        }
        assert_eq!(FieldSet::parse(&deep), Err(ParseFieldsError::TooDeep));
    }

    #[test]
    fn paths_print_as_conflicts_name_them() {
        let printed: Vec<String> = set(json!({"f:spec": {
            "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:name": {}}},
            "f:finalizers": {"v:\"a\"": {}, "i:2": {}}}}))
        .paths()
        .iter()
        .map(|path| display_path(path))
        .collect();
        assert_eq!(printed, [r#".spec.finalizers[="a"]"#, ".spec.finalizers[2]", r#".spec.ports[port=80,protocol="TCP"].name"#]);
    }

    #[test]
    fn removing_subtrees_takes_all_behind_a_path() {
        let all = set(json!({"f:status": {".": {}, "f:a": {}}, "f:spec": {"f:b": {}}}));
        assert_eq!(all.without_subtrees(&set(json!({"f:status": {}}))).to_value(), json!({"f:spec": {"f:b": {}}}));
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let step = prop_oneof![
            "[a-c]".prop_map(|name| Step::field(&name)),
            "[a-b]".prop_map(|name| Step::value(&json!(name))),
            (0..2u64).prop_map(Step::Index),
        ];
        prop::collection::vec(prop::collection::vec(step, 1..4), 0..8).prop_map(|paths| paths.into_iter().collect())
    }

    proptest! {
        #[test]
        fn sets_obey_the_laws_of_sets(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert_eq!(FieldSet::parse(&a.to_value()), Ok(a));
        }
    }
}
