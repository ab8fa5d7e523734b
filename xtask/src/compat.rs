//! `compat`: the SDK suites alone, with the pinned SDKs, or with the newest that are published.
//!
//! The newest ones live in folders of their own below `target`; nothing pinned is changed.

use std::path::PathBuf;

use crate::run::{command, root, run};
use crate::{Outcome, dev, install, test};

/// Runs the suites.
pub(crate) fn all(arguments: &[String]) -> Outcome {
    match arguments {
        [] => test::suites(&["python".to_owned(), "node".to_owned(), "java".to_owned()]),
        [flag] if flag == "--newest" => newest(),
        _ => Err("usage: cargo xtask compat [--newest]".to_owned()),
    }
}

fn newest() -> Outcome {
    dev::build()?;
    let python = newest_python()?;
    let first = test::pytest_with(&python, &["compat/python"]);
    let folder = newest_node()?;
    let second = test::node_in(&folder);
    first.and(second)
}

fn newest_python() -> Result<PathBuf, String> {
    let folder = root().join("target/compat/venv-newest");
    install::virtual_environment(&folder)?;
    let python = folder.join("bin/python");
    install::pip(&python, &["--upgrade", "tablestore", "pytest", "pytest-timeout"])?;
    run(&mut command(&python, &["-m", "pip", "show", "tablestore"]))?;
    Ok(python)
}

fn newest_node() -> Result<PathBuf, String> {
    install::find_node()?;
    let from = root().join("tests/compat/node");
    // Two levels below the root like the original, so that it finds the program.
    let folder = root().join("target/compat/node-newest");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    for entry in std::fs::read_dir(&from).map_err(failed)?.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_file() && name != "package-lock.json" {
            std::fs::copy(&path, folder.join(name)).map_err(failed)?;
        }
    }
    let install = ["install", "--no-progress", "--no-package-lock", "tablestore@latest"];
    run(command("npm", &install).current_dir(&folder))?;
    run(command("npm", &["ls", "tablestore"]).current_dir(&folder))?;
    Ok(folder)
}
