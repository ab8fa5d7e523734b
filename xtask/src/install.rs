//! What the commands need on a fresh Debian machine, and how it gets there.
//!
//! What must hold: what is there already is used; nothing outside the project is changed but by
//! the system's package manager, and only where the user may; where not, one line says what to
//! install. Versions of the SDKs are pinned by files of the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::run::{command, output, prepare, root, succeeds};

/// For the embedded engine: a C++ compiler, and libclang for its bindings.
pub(crate) fn build_tools() -> Outcome {
    let mut missing = Vec::new();
    if !succeeds(&mut command("c++", &["--version"])) {
        missing.push("g++");
    }
    if !succeeds(&mut command("clang", &["--version"])) {
        missing.push("clang");
    }
    if !has_libclang() {
        missing.push("libclang-dev");
    }
    packages(&missing)
}

fn has_libclang() -> bool {
    let in_folder = |folder: &Path| {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names.map(|entry| entry.file_name()).any(|name| {
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-")
        })
    };
    if let Some(given) = std::env::var_os("LIBCLANG_PATH") {
        return in_folder(Path::new(&given)) || Path::new(&given).is_file();
    }
    let found = output(&mut command("ldconfig", &["-p"])).unwrap_or_default();
    if found.contains("libclang.so") || found.contains("libclang-") {
        return true;
    }
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    llvm.filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
        .any(|entry| in_folder(&entry.path().join("lib")))
}

/// For the tests that cut power, break syncs and forge certificates. Those tests say so and are
/// left out where a tool is missing and cannot be installed.
pub(crate) fn fault_tools() {
    let wanted = [
        ("strace", "-V", "strace"),
        ("mkfs.ext4", "-V", "e2fsprogs"),
        ("openssl", "version", "openssl"),
        ("ip", "-V", "iproute2"),
        ("iptables", "-V", "iptables"),
    ];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|(program, argument, _)| !succeeds(&mut command(program, &[argument])))
        .map(|(_, _, package)| package)
        .collect();
    if let Err(message) = packages(&missing) {
        eprintln!("xtask: {message} (some tests of faults are left out)");
    }
}

/// The Python of the test suites: a virtual environment below `target` with pinned packages.
pub(crate) fn python() -> Result<PathBuf, String> {
    let folder = root().join("target/compat/venv");
    let requirements = root().join("tests/requirements.txt");
    let wanted = read(&requirements)?;
    let stamp = folder.join("installed.txt");
    let python = folder.join("bin/python");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted)
        && succeeds(Command::new(&python).arg("--version"))
    {
        return Ok(python);
    }
    virtual_environment(&folder)?;
    let path = requirements.to_string_lossy().into_owned();
    pip(&python, &["-r", &path])?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}

/// An empty virtual environment.
pub(crate) fn virtual_environment(folder: &Path) -> Outcome {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let path = folder.to_string_lossy().into_owned();
    prepare(&mut command(find_python()?, &["-m", "venv", &path]))
}

/// Installs Python packages.
pub(crate) fn pip(python: &Path, packages: &[&str]) -> Outcome {
    let head = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"];
    prepare(&mut command(python, &[&head[..], packages].concat()))
}

fn find_python() -> Result<&'static str, String> {
    const FITS: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
    let find = || {
        ["python3", "python3.13", "python3.12", "python3.11"]
            .into_iter()
            .find(|name| succeeds(&mut command(name, &["-c", FITS])))
    };
    if let Some(name) = find() {
        return Ok(name);
    }
    packages(&["python3", "python3-venv"])?;
    find().ok_or_else(|| "Python 3.11 or newer with venv is needed for the tests".to_owned())
}

/// The Node SDK of the test suite, as its lock file says.
pub(crate) fn node() -> Outcome {
    find_node()?;
    let folder = root().join("tests/compat/node");
    let wanted = read(&folder.join("package-lock.json"))?;
    let stamp = folder.join("node_modules/.installed.json");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    prepare(command("npm", &["ci", "--no-progress"]).current_dir(&folder))?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

/// Node 18 or newer, with npm.
pub(crate) fn find_node() -> Outcome {
    const FITS: &str = "process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)";
    let fits = || {
        succeeds(&mut command("node", &["-e", FITS]))
            && succeeds(&mut command("npm", &["--version"]))
    };
    if !fits() {
        packages(&["nodejs", "npm"])?;
    }
    if fits() { Ok(()) } else { Err("Node 18 or newer with npm is needed for the tests".into()) }
}

/// The Java suite, compiled against the SDK that its files pin; gives the class path.
pub(crate) fn java() -> Result<String, String> {
    const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";
    let mut missing = Vec::new();
    if !succeeds(&mut command("javac", &["-version"])) {
        missing.push("default-jdk-headless");
    }
    if !succeeds(&mut command("mvn", &["-v"])) {
        missing.push("maven");
    }
    packages(&missing)?;
    let (folder, suite) = (root().join("target/compat/java"), root().join("tests/compat/java"));
    let (libraries, classes) = (folder.join("libraries"), folder.join("classes"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let sums = suite.join("checksums.txt");
    let check = ["--check", "--quiet", "--strict", &text(&sums)];
    let fits = |quiet: bool| {
        let mut check = command("sha256sum", &check);
        check.current_dir(&libraries);
        libraries.is_dir() && if quiet { succeeds(&mut check) } else { prepare(&mut check).is_ok() }
    };
    if !fits(true) {
        // What another version left there would be found, too.
        if libraries.is_dir() {
            std::fs::remove_dir_all(&libraries)
                .map_err(|error| format!("{}: {error}", libraries.display()))?;
        }
        let into = format!("-DoutputDirectory={}", text(&libraries));
        prepare(command("mvn", &["-q", "-B", PLUGIN, &into]).current_dir(&suite))?;
        if !fits(false) {
            return Err(format!("the Java SDK is not what {} says", sums.display()));
        }
    }
    let class_path = format!("{}/*:{}", text(&libraries), text(&classes));
    let sources = ["Regions.java", "Suite.java"].map(|name| text(&suite.join("src").join(name)));
    let target = text(&classes);
    prepare(&mut command("javac", &["-cp", &class_path, "-d", &target, &sources[0], &sources[1]]))?;
    Ok(class_path)
}

/// Installs Debian packages where the user may; else says which to install.
fn packages(names: &[&str]) -> Outcome {
    if names.is_empty() {
        return Ok(());
    }
    let wanted = names.join(" ");
    let say = format!("please install: {wanted} (Debian: apt-get install {wanted})");
    if !succeeds(&mut command("apt-get", &["--version"])) {
        return Err(say);
    }
    let is_root = output(&mut command("id", &["-u"])).is_some_and(|id| id.trim() == "0");
    let prefix: &[&str] = if is_root {
        &[]
    } else if succeeds(&mut command("sudo", &["-n", "true"])) {
        &["sudo", "-n"]
    } else {
        return Err(say);
    };
    let apt = |arguments: &[&str]| {
        let environment = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"];
        let words = [prefix, &environment, arguments].concat();
        prepare(&mut command(words[0], &words[1..]))
    };
    apt(&["update"]).map_err(|error| format!("{error}; {say}"))?;
    let install = [&["install", "-y", "--no-install-recommends"], names].concat();
    apt(&install).map_err(|error| format!("{error}; {say}"))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
