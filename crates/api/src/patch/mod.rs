//! JSON patch, merge patch and strategic merge patch: the object, and what the client wants changed, give the object as it would be.
//!
//! The result is not checked here: it goes the way of any written object, through the decoder's schema, defaults and validation.
//! A body that is no patch of its kind is a 400; a patch that does not fit the object is a 422, as upstream.

mod strategic;

#[cfg(test)]
mod tests;

use json_patch::{Patch, PatchOperation};
use serde::Deserialize as _;
use serde_json::Value;

use crate::decode::depth;
use crate::kind::Kind;
use crate::object::Object;
use crate::status::{Status, bad_request};

/// Operations in one JSON patch. Upstream's number (apiserver, handlers/patch.go, maxJSONPatchOperations).
pub const OPERATIONS_MAX: usize = 10_000;

/// Bytes of JSON that the copy operations of one patch may add: a few copies of copies would otherwise make gigabytes of a short body.
/// As upstream, the size of the largest body (apiserver, server/config.go, JSONPatchMaxCopyBytes).
pub const COPY_BYTES_MAX: usize = 3 << 20;

/// Values that the operations of one patch may put in their places, with all that is in them. A body holds fewer; moving what is large many times
/// would take long, as each time it is looked through for its depth.
const VALUES_MAX: usize = 4 << 20;

/// RFC 6902: a list of operations, as the body of the request.
pub fn json(object: &Object, patch: &[u8]) -> Result<Object, Status> {
    Ok(apply(object, read(serde_json::from_slice(patch))?)?)
}

/// The same, of a body that was read already.
pub fn json_value(object: &Object, patch: &Value) -> Result<Object, Status> {
    Ok(apply(object, read(Patch::deserialize(patch))?)?)
}

fn read(patch: serde_json::Result<Patch>) -> Result<Patch, Status> {
    patch.map_err(|error| bad_request(format!("error decoding patch: {error}")))
}

/// The same, or none if a test among the operations fails.
pub fn json_if(object: &Object, patch: &[u8]) -> Result<Option<Object>, Status> {
    match apply(object, read(serde_json::from_slice(patch))?) {
        Ok(object) => Ok(Some(object)),
        Err(Fault::Test(_)) => Ok(None),
        Err(Fault::Other(status)) => Err(status),
    }
}

/// Why a JSON patch was not applied.
enum Fault {
    /// One of its tests did not hold.
    Test(Status),
    Other(Status),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Fault {
        Fault::Other(status)
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        match fault {
            Fault::Test(status) | Fault::Other(status) => status,
        }
    }
}

fn apply(object: &Object, Patch(operations): Patch) -> Result<Object, Fault> {
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        let message =
            format!("Request entity is too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}");
        return Err(Status::new(413, "RequestEntityTooLarge", message).into());
    }
    let mut document = object.clone().into_value();
    let (mut copied, mut looked) = (0, 0);
    for operation in &operations {
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && document.pointer(test.path.as_str()).is_none()
        {
            // Upstream's library takes a missing field for null.
            continue;
        }
        if let PatchOperation::Copy(copy) = operation {
            copied += document.pointer(copy.from.as_str()).map_or(0, size);
            if copied > COPY_BYTES_MAX {
                return Err(does_not_fit(&format!("the copy operations add more than {COPY_BYTES_MAX} bytes")).into());
            }
        }
        let (to, placed) = match operation {
            PatchOperation::Add(add) => (Some(&add.path), Some(&add.value)),
            PatchOperation::Replace(replace) => (Some(&replace.path), Some(&replace.value)),
            PatchOperation::Copy(copy) => (Some(&copy.path), document.pointer(copy.from.as_str())),
            PatchOperation::Move(moved) => (Some(&moved.path), document.pointer(moved.from.as_str())),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, None),
        };
        let levels = to.map_or(0, |path| path.count()) + placed.map_or(0, |value| depth::levels(value, &mut looked));
        if levels > depth::LEVELS_MAX {
            return Err(does_not_fit(&format!("the result nests deeper than {} levels", depth::LEVELS_MAX)).into());
        }
        if looked > VALUES_MAX {
            return Err(does_not_fit(&format!("the operations place more than {VALUES_MAX} values, those within others counted")).into());
        }
        json_patch::patch(&mut document, std::slice::from_ref(operation)).map_err(|error| {
            let status = does_not_fit(&error.to_string());
            if matches!(operation, PatchOperation::Test(_)) { Fault::Test(status) } else { Fault::Other(status) }
        })?;
    }
    Object::from_value(document).ok_or_else(|| does_not_fit("what remains is not an object").into())
}

/// RFC 7396.
pub fn merge(object: &Object, patch: &Value) -> Result<Object, Status> {
    if !patch.is_object() {
        return Err(bad_request("a merge patch is a JSON object"));
    }
    let mut document = object.clone().into_value();
    json_patch::merge(&mut document, patch);
    Ok(Object::from_value(document).expect("merging an object into an object gives an object"))
}

/// Merges lists by their keys, as the schema of the kind tells. Kinds without a schema have no such patch: a 415.
pub fn strategic(object: &Object, patch: &Value, kind: &Kind) -> Result<Object, Status> {
    strategic::apply(object, patch, kind)
}

/// Bytes of the value as JSON.
fn size(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_or(0, |()| count.0)
}

fn does_not_fit(why: &str) -> Status {
    Status::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {why}"))
}
