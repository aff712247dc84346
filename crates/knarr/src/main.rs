//! The `knarr` binary: command line, configuration, wiring. Nothing else.

mod access;
mod certs;
mod cli;
mod client;
mod config;
mod demo;
mod image;
mod keeper;
mod memory;
mod orders;
mod place;
mod report;
mod secrets;
mod status;
mod stop;
mod tokens;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(options) => up::run(*options),
        Command::Down(place) => stop::down(&place),
        Command::Purge(purge) => stop::purge(&purge),
        Command::Status(place) => status::run(&place),
        Command::Image { command, place } => image::run(command, &place),
        Command::Secrets { command, place } => secrets::run(command, &place),
        Command::Certs { command, place } => certs::run(command, &place),
        Command::Tokens { command, place } => tokens::run(&command, &place),
        Command::Get(get) => client::run(&get.place, client::get::run(&get)),
        Command::Apply(apply) => client::run(&apply.place, client::apply::run(&apply)),
        Command::Delete(delete) => client::run(&delete.place, client::delete::run(&delete)),
        Command::Logs(logs) => client::run(&logs.place, client::logs::run(&logs)),
        Command::Exec(exec) => client::run(&exec.place, client::exec::run(&exec)),
        Command::DemoWeb => demo::web::run(),
        Command::Wait(wait) => client::run(&wait.place, client::wait::run(&wait)),
    };
    report::exit(result)
}
