//! `scale`: the replicas of anything that has some, as one kind.

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use jiff::Timestamp;
use knarr_api::{
    Cell, CellFn, Column, FieldError, Kind, Object, Status, Subresource, Verb, decode, decode::PatchBody, patch, ssa, status, table, time,
};
use serde_json::{Map, Value, json};

use crate::{
    body::{self, Body},
    call::{Call, decode as decode_entry},
    render,
    request::{
        media::{PatchType, Shape},
        options::WriteOptions,
    },
    verbs::{
        patch::{applied, check_applied, check_options, patch_type},
        write::{self, Admitted, Change, Live, Outcome, Track, Written},
    },
};

pub(super) async fn serve(call: &Call, verb: Verb, body: body::Incoming) -> Result<Response<Body>, Status> {
    if verb == Verb::Get {
        let live = call.core.conversions.entry(&call.kind, call.live()?).await?;
        return answer(call, &decode_entry(&call.kind, &live)?);
    }
    let options = WriteOptions::parse(&call.query)?;
    let wish = match verb {
        Verb::Patch => Wish::read_patch(call, body, &options).await?,
        _ => Wish::Whole(write::read_object(call, body, body_kind(call)?, &options).await?),
    };
    let manager = call.manager(&options.field_manager);
    let change = Scale { call, body: body_kind(call)?, options: &options, manager, wish };
    let written = write::write(call, &call.key(), options.dry_run, &change).await?;
    match written {
        Written::Created(shown) | Written::Updated(shown) | Written::Deleted(shown) => answer(call, &shown.into_object(&call.kind)?),
    }
}

enum Wish {
    Whole(Object),
    Json(PatchBody),
    /// A Scale has no lists, so that merge and strategic merge come to the same.
    Merge(PatchBody),
    /// The fields that the manager wants to own.
    Apply(Object),
}

impl Wish {
    async fn read_patch(call: &Call, body: body::Incoming, options: &WriteOptions) -> Result<Self, Status> {
        let kind = patch_type(call)?;
        check_options(kind, options)?;
        let bytes = write::read_bytes(call, body).await?;
        Ok(match kind {
            PatchType::Apply => Self::Apply(applied(call, body_kind(call)?, &bytes, options)?),
            PatchType::Json => Self::Json(decode::json_patch_body(&bytes)?),
            PatchType::Merge | PatchType::Strategic => Self::Merge(decode::patch_body(&bytes)?),
        })
    }
}

/// The kind of a Scale itself.
fn body_kind(call: &Call) -> Result<&'static Kind, Status> {
    let body = call.kind.subresource("scale").and_then(Subresource::body);
    body.ok_or_else(|| status::internal("the body of a scale has no kind"))
}

struct Scale<'a> {
    call: &'a Call,
    /// The kind of the wish.
    body: &'static Kind,
    options: &'a WriteOptions,
    manager: String,
    wish: Wish,
}

impl Scale<'_> {
    async fn next(&self, live: Option<&Live>) -> Result<Outcome, Status> {
        let live = live.ok_or_else(|| self.call.not_found(&self.call.path.name))?;
        let kind = &self.call.kind;
        let mut present = of(kind, &live.object)?;
        if let Some(owners) = ssa::scale_owners(&live.object, kind)? {
            present.set(&["metadata", "managedFields"], owners);
        }
        let now = Timestamp::now();
        let scale = self.wished(&present, now)?;
        if !matches!(scale.name(), "") && scale.name() != live.object.name() {
            let message = format!("the name of the object ({}) does not match the name on the URL ({})", scale.name(), live.object.name());
            return Err(status::bad_request(message));
        }
        if !scale.resource_version().is_empty() && scale.resource_version() != live.object.resource_version() {
            return Err(self.call.conflict(live.object.name(), status::MODIFIED));
        }
        write::check_preconditions(self.call, &live.object, Some(scale.uid()).filter(|uid| !uid.is_empty()), None)?;
        let mut new = live.object.clone();
        scale_to(kind, &mut new, &scale)?;
        ssa::take_scale_owners(&mut new, &scale, kind)?;
        let admitted = Admitted { call: self.call, subresource: "scale", options: self.options, track: Track::Done, now };
        admitted.update(live, new).await
    }

    /// The scale that is wished for, given the present one, and its owners.
    fn wished(&self, present: &Object, now: Timestamp) -> Result<Object, Status> {
        let versions = ssa::Versions::only(self.body);
        let mut scale = match &self.wish {
            Wish::Whole(scale) => scale.clone(),
            Wish::Json(body) => self.conforming(patch::json_value(present, &body.value)?, &body.faults)?,
            Wish::Merge(body) => self.conforming(patch::merge(present, &body.value)?, &body.faults)?,
            Wish::Apply(applied) => {
                check_applied(self.call, present, applied)?;
                let force = self.options.force.unwrap_or(false);
                return Ok(ssa::apply(Some(present), applied, &versions, &self.options.field_manager, force, "scale", now)?);
            }
        };
        ssa::track_update(Some(present), &mut scale, &versions, &self.manager, ssa::Operation::Update, "scale", now)?;
        Ok(scale)
    }
}

impl Scale<'_> {
    /// A patched Scale; its unknown fields are gone or refused.
    fn conforming(&self, patched: Object, faults: &[String]) -> Result<Object, Status> {
        let decoded = decode::patched(patched.into_value(), faults, self.body, self.options.validation.into())?;
        self.call.warnings.add(decoded.warnings);
        Ok(decoded.object)
    }
}

impl Change for Scale<'_> {
    fn apply<'a>(&'a self, live: Option<&'a Live>) -> BoxFuture<'a, Result<Outcome, Status>> {
        Box::pin(self.next(live))
    }

    fn retries(&self) -> bool {
        match &self.wish {
            Wish::Whole(scale) => scale.resource_version().is_empty(),
            Wish::Json(_) | Wish::Merge(_) | Wish::Apply(_) => true,
        }
    }
}

/// Gives the object the replicas that the scale wants.
pub(crate) fn scale_to(kind: &Kind, object: &mut Object, scale: &Object) -> Result<(), Status> {
    object.set(&paths(kind).spec, replicas(scale)?.into());
    Ok(())
}

fn replicas(scale: &Object) -> Result<i64, Status> {
    let invalid = |error| Err(status::invalid("autoscaling", "Scale", scale.name(), &[error]));
    match scale.get(&["spec", "replicas"]) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => match value.as_i64() {
            Some(count) if (0..=i64::from(i32::MAX)).contains(&count) => Ok(count),
            Some(_) => invalid(FieldError::invalid("spec.replicas", value, "must be greater than or equal to 0")),
            None => Err(status::bad_request(format!("spec.replicas: {value} is not a number"))),
        },
    }
}

fn answer(call: &Call, object: &Object) -> Result<Response<Body>, Status> {
    let scale = of(&call.kind, object)?;
    let value = match call.answer.shape {
        Shape::Table => {
            let mut table =
                table::with_columns(&columns(), &mut [&scale].into_iter(), render::include_object(&call.query)?, Timestamp::now());
            table["apiVersion"] = format!("meta.k8s.io/{}", call.answer.version).into();
            table["metadata"] = json!({"resourceVersion": scale.resource_version()});
            table
        }
        _ => scale.into_value(),
    };
    Ok(render::value_body(StatusCode::OK, call.answer, &value))
}

/// What `kubectl get --subresource=scale` shows (printers/internalversion, printScale).
fn columns() -> [Column; 4] {
    let column = |name: &'static str, ty: &'static str, cell: CellFn| Column {
        name: name.into(),
        ty: ty.into(),
        format: "".into(),
        priority: 0,
        description: "".into(),
        cell: Cell::Computed(cell),
    };
    [
        Column { format: "name".into(), ..column("Name", "string", |scale, _| scale.name().into()) },
        column("Desired", "integer", |scale, _| scale.int(&["spec", "replicas"]).unwrap_or(0).into()),
        column("Available", "integer", |scale, _| scale.int(&["status", "replicas"]).unwrap_or(0).into()),
        column("Age", "string", |scale, now| time::age(scale.creation_timestamp(), now).into()),
    ]
}

/// Where a kind keeps its numbers.
struct Paths<'a> {
    spec: Vec<&'a str>,
    status: Vec<&'a str>,
    /// Of a selector in text; built-in kinds have one that is written out.
    selector: Option<Vec<&'a str>>,
    custom: bool,
}

fn paths(kind: &Kind) -> Paths<'_> {
    match kind.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(scale) => {
            Paths { spec: names(&scale.spec), status: names(&scale.status), selector: scale.selector.as_deref().map(names), custom: true }
        }
        None => Paths { spec: vec!["spec", "replicas"], status: vec!["status", "replicas"], selector: None, custom: false },
    }
}

fn names(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// The Scale of an object.
pub(crate) fn of(kind: &Kind, object: &Object) -> Result<Object, Status> {
    let paths = paths(kind);
    let wanted = match object.int(&paths.spec) {
        Some(wanted) => wanted,
        None if paths.custom => {
            return Err(status::internal(format!("the spec replicas field \".{}\" does not exist", paths.spec.join("."))));
        }
        // Absent means one, for every built-in kind that has a scale.
        None => 1,
    };
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get(&["metadata", field]) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut status = json!({"replicas": object.int(&paths.status).unwrap_or(0)});
    let selector = match &paths.selector {
        Some(path) => object.str(path).to_owned(),
        None if paths.custom => String::new(),
        None => object.get(&["spec", "selector"]).map(selector_text).unwrap_or_default(),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": wanted},
        "status": status,
    });
    Ok(Object::from_value(scale).unwrap_or_default())
}

/// A selector in the form that queries have. A ReplicationController's is a plain map.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector).as_object();
    let equal = labels.into_iter().flatten().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().filter_map(expression_text);
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

fn expression_text(expression: &Value) -> Option<String> {
    let key = expression.get("key")?.as_str()?;
    let values: Vec<_> = expression.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    Some(match expression.get("operator")?.as_str()? {
        "In" => format!("{key} in ({})", values.join(",")),
        "NotIn" => format!("{key} notin ({})", values.join(",")),
        "Exists" => key.to_owned(),
        "DoesNotExist" => format!("!{key}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_text() {
        for (selector, text) in [
            (json!({"matchLabels": {"a": "b", "c": "d"}}), "a=b,c=d"),
            (json!({"app": "x"}), "app=x"),
            (
                json!({"matchExpressions": [{"key": "k", "operator": "In", "values": ["1", "2"]}, {"key": "l", "operator": "DoesNotExist"}]}),
                "k in (1,2),!l",
            ),
        ] {
            assert_eq!(selector_text(&selector), text);
        }
    }

    #[test]
    fn the_scale_of_a_deployment() {
        let deployment = json!({"metadata": {"name": "a", "namespace": "b", "labels": {"x": "y"}}, "spec": {"replicas": 3, "selector": {"matchLabels": {"p": "q"}}},
            "status": {"replicas": 2}});
        let kind = knarr_api::Kinds::builtin().resource("apps", "v1", "deployments").unwrap();
        let scale = of(&kind, &Object::from_value(deployment).unwrap()).unwrap().into_value();
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "p=q"}));
        assert_eq!(scale["metadata"], json!({"name": "a", "namespace": "b"}));
    }
}
