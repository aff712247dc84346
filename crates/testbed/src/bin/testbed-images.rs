//! Makes the test images and prints where they are: `testbed-images [oci] [NAME...]`; without names, all of them.

use std::process::ExitCode;

use knarr_testbed::image::{self, Format};

fn main() -> ExitCode {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let format = if names.first().is_some_and(|word| word == "oci") { Format::Oci } else { Format::Docker };
    if format == Format::Oci {
        names.remove(0);
    }
    if names.is_empty() {
        names = image::NAMES.iter().map(|name| (*name).to_owned()).collect();
    }
    for name in names {
        match image::image_as(&name, format) {
            Ok(path) => println!("{}", path.display()),
            Err(error) => {
                let cause = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
                eprintln!("testbed-images: {error}{cause}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
