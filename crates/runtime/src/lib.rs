//! Images, snapshots, containers and their keepers. Knows no Kubernetes type.
//!
//! Two processes meet here. The node process holds a [`Runtime`]: it prepares images and root file systems and asks for
//! containers. For each pod there is a keeper, the same binary started anew through [`keeper_main`]: it holds the pod's
//! namespaces, is the parent of its containers, writes their logs and records their exits. The node process may stop, crash or
//! be upgraded; keepers carry on, and [`Runtime::open`] adopts them again.

mod cgroup;
mod error;
mod image;
mod keeper;
mod node;
mod registry;
mod spec;

pub use error::{Error, Result};
pub use image::{Collected, Image, ImageConfig, ImageError, Images, Progress, ResolvedUser, RootFs, Usage, resolve_user};
pub use keeper::keeper_main;
pub use node::{Events, Runtime, RuntimeConfig, RuntimeEvent, Session};
pub use registry::{Credentials, Logins, LoginsError, Registries, Registry, RegistryError};
pub use spec::container::{Capabilities, ContainerConfig, Device, Mount, MountKind, Propagation, Resources, Rlimit, Seccomp, User};
pub use spec::sandbox::SandboxConfig;
pub use spec::status::{
    ContainerState, ContainerStats, ContainerStatus, Details, DiskStats, ExecOutput, Exit, InterfaceStats, PacketStats, Pressure, Sandbox,
    SandboxState, SandboxStats, SandboxStatus, Throttling,
};
