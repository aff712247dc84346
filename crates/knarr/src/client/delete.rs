//! `knarr delete`.

use serde_json::Value;

use super::{JSON, apply, connect, encoded, resources, send, wait};
use crate::{cli::Delete, report::Failure};

pub(crate) async fn run(delete: &Delete) -> Result<(), Failure> {
    let client = connect(&delete.place).await?;
    let known = resources::Resources::discover(&client).await?;
    let mut paths = Vec::new();
    for target in resources::targets(&delete.what)? {
        let resource = known.find(&target.resource)?;
        let name = target.name.ok_or_else(|| Failure::Usage(format!("which {}? Give their names", resource.plural)))?;
        paths.push((format!("{}/{}", resource.path(&delete.namespace), encoded(&name)), format!("{} {name:?}", resource.display())));
    }
    if !delete.filenames.is_empty() {
        for object in apply::read(&delete.filenames)? {
            let (api_version, kind, name) = apply::identity(&object)?;
            let resource = known.of_kind(api_version, kind)?;
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(&delete.namespace);
            paths.push((format!("{}/{}", resource.path(namespace), encoded(name)), format!("{} {name:?}", resource.display())));
        }
    }
    if paths.is_empty() {
        return Err(Failure::Usage("name what to delete: `knarr delete pod web`, or `knarr delete -f FILE`".to_owned()));
    }
    for (path, shown) in &paths {
        send(&client, "DELETE", path, JSON, JSON, Vec::new()).await?;
        println!("{shown} deleted");
    }
    if !delete.no_wait {
        for (path, _) in &paths {
            wait::gone(&client, path).await?;
        }
    }
    Ok(())
}
