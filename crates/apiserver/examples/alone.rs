//! An API server without nodes or controllers, for trying clients: `cargo run -p knarr-apiserver --example alone -- <directory> [address]`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use knarr_apiserver::{ApiServer, Config};
use knarr_store::{Embedded, Options, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("give a directory for the data")?);
    let listen: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:6443").parse()?;
    std::fs::create_dir_all(&dir)?;
    let store = Arc::new(Embedded::open(&dir.join("store"), Options::default())?);
    let server = ApiServer::start(Config::new(dir.clone(), listen), store.clone() as Arc<dyn Store>).await?;
    let kubeconfig = dir.join("admin.kubeconfig");
    server.pki().write_admin_kubeconfig(&kubeconfig, &format!("https://{}", server.addresses()[0]))?;
    println!("ready: {}", kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    store.close();
    Ok(())
}
