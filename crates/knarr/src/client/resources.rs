//! Which resources the server has, and which objects a command line means.

use kube::Client;
use serde_json::Value;

use super::fetch;
use crate::report::Failure;

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource at the version that the server prefers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    group: String,
    version: String,
    pub(super) plural: String,
    kind: String,
    names: Vec<String>,
    pub(super) namespaced: bool,
}

impl Resource {
    /// The path of the collection; `namespace` is empty for all of them.
    pub(super) fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if self.namespaced && !namespace.is_empty() {
            format!("{root}/namespaces/{namespace}/{}", self.plural)
        } else {
            format!("{root}/{}", self.plural)
        }
    }

    /// `pod` or `deployment.apps`, as messages name a kind.
    pub(super) fn display(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }
}

/// Everything the server has.
pub(super) struct Resources(Vec<Resource>);

impl Resources {
    pub(super) async fn discover(client: &Client) -> Result<Self, Failure> {
        let mut resources = Vec::new();
        for root in ["/api", "/apis"] {
            let answer = fetch(client, root, DISCOVERY).await?;
            for group in array(&answer, "items") {
                let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                // The first version is the preferred one; later ones add only what it lacks.
                for version in array(group, "versions") {
                    let version_name = text(version, "version");
                    for resource in array(version, "resources") {
                        resources.push(read(name, version_name, resource));
                    }
                }
            }
        }
        Ok(Self(resources))
    }

    /// By plural, singular, short name or kind, with or without `.group`.
    pub(super) fn find(&self, name: &str) -> Result<&Resource, Failure> {
        let name = name.to_lowercase();
        let (short, group) = name.split_once('.').map_or((&*name, None), |(short, group)| (short, Some(group)));
        self.0
            .iter()
            .find(|resource| resource.names.iter().any(|known| known == short) && group.is_none_or(|group| resource.group == group))
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "the server has no resource {name:?}; its resources: `knarr get --help`, or `kubectl api-resources`"
                ))
            })
    }

    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Result<Resource, Failure> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.0
            .iter()
            .find(|resource| resource.kind == kind && resource.group == group && resource.version == version)
            .cloned()
            .ok_or_else(|| Failure::Usage(format!("the server has no {kind} in {api_version}; is its custom resource definition applied?")))
    }
}

fn read(group: &str, version: &str, resource: &Value) -> Resource {
    let kind = resource.pointer("/responseKind/kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let plural = text(resource, "resource").to_owned();
    let mut names = vec![plural.clone(), text(resource, "singularResource").to_owned(), kind.to_lowercase()];
    names.extend(array(resource, "shortNames").iter().filter_map(Value::as_str).map(str::to_owned));
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural,
        kind,
        names,
        namespaced: text(resource, "scope") == "Namespaced",
    }
}

fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// One resource, and a name in it or all of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) resource: String,
    pub(super) name: Option<String>,
}

/// Reads `pods`, `pods web db`, `po,svc`, `pod/web svc/web`.
pub(super) fn targets(words: &[String]) -> Result<Vec<Target>, Failure> {
    let with_slash = words.iter().filter(|word| word.contains('/')).count();
    if with_slash == words.len() {
        let split = |word: &String| {
            word.split_once('/').map(|(resource, name)| Target { resource: resource.to_owned(), name: Some(name.to_owned()) })
        };
        return Ok(words.iter().filter_map(split).collect());
    }
    if with_slash > 0 {
        return Err(Failure::Usage("name the objects either all as kind/name, or as one kind and then names".to_owned()));
    }
    let Some((kinds, names)) = words.split_first() else { return Ok(Vec::new()) };
    let kinds = kinds.split(',').filter(|kind| !kind.is_empty());
    if names.is_empty() {
        return Ok(kinds.map(|kind| Target { resource: kind.to_owned(), name: None }).collect());
    }
    Ok(kinds.flat_map(|kind| names.iter().map(move |name| Target { resource: kind.to_owned(), name: Some(name.clone()) })).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &str) {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let shown = match targets(&words) {
            Ok(targets) => {
                targets.iter().map(|t| format!("{}/{}", t.resource, t.name.as_deref().unwrap_or("*"))).collect::<Vec<_>>().join(" ")
            }
            Err(failure) => failure.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn objects_are_named_as_for_kubectl() {
        check("pods", "pods/*");
        check("po,svc", "po/* svc/*");
        check("pods web db", "pods/web pods/db");
        check("pod/web svc/db", "pod/web svc/db");
        check("pod/web db", "name the objects either all as kind/name, or as one kind and then names");
    }
}
