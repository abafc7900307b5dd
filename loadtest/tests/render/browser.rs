//! Does a browser show the page without a complaint and without asking anybody for anything?

use std::{ffi::OsString, fs, path::Path, process::Command};

use glint_loadtest::render;

use crate::example;

fn chromium() -> Option<OsString> {
    if let Some(chromium) = std::env::var_os("GLINT_CHROMIUM") {
        return Some(chromium);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("chromium"))
        .find(|program| program.is_file())
        .map(Into::into)
}

/// A browser and the Python that drives it; nothing, with a line that says so, where one is missing.
fn browser() -> Option<(OsString, OsString)> {
    let python = std::env::var_os("GLINT_PYTHON").unwrap_or_else(|| "python3".into());
    let runs = Command::new(&python).arg("--version").output().is_ok_and(|o| o.status.success());
    match chromium() {
        Some(chromium) if runs => Some((chromium, python)),
        _ => {
            assert!(
                std::env::var_os("GLINT_REQUIRE_CHROMIUM").is_none(),
                "neither GLINT_CHROMIUM nor PATH has a Chromium, or there is no Python"
            );
            println!("skipped: no Chromium or no Python, run `make test`");
            None
        }
    }
}

/// Opens pages and returns whether they were clean, and what the browser said.
fn open((chromium, python): &(OsString, OsString), arguments: &[&Path]) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/browser-check.py");
    let output = Command::new(python).arg(script).arg(chromium).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// With `GLINT_SCREENSHOTS` set to a folder, pictures of the pages are left there: docs/images has been made so.
#[test]
fn pages_are_shown_without_an_error_and_without_a_request() {
    let Some(browser) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let pages = [
        ("run", &example::all()[0]),
        ("sweep", &example::all()[1]),
        ("find-max", &example::all()[2]),
        ("compare", &example::all()[3]),
        ("hostile", &example::all()[4]),
    ];
    let paths = pages.map(|(name, report)| {
        let path = folder.path().join(format!("loadtest-{name}.html"));
        fs::write(&path, render::html(report)).unwrap();
        path
    });
    let mut arguments: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
    let screenshots = std::env::var_os("GLINT_SCREENSHOTS");
    let flag = screenshots.map(|folder| {
        let mut flag = OsString::from("--screenshots=");
        flag.push(folder);
        flag
    });
    arguments.extend(flag.as_ref().map(Path::new));
    let (clean, text) = open(&browser, &arguments);
    assert!(clean, "{text}");
    assert_eq!(text.matches(": clean\n").count(), paths.len(), "{text}");
}

#[test]
fn the_check_sees_requests_and_errors() {
    let Some(browser) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("bad.html");
    fs::write(
        &page,
        "<!doctype html><link rel=icon href=data:,><script>console.error('told');throw 'thrown'</script>\
         <img src=http://host.invalid/x.png>",
    )
    .unwrap();
    let (clean, text) = open(&browser, &[&page]);
    assert!(!clean, "{text}");
    for seen in ["request: http://host.invalid/x.png", "console: told", "exception: "] {
        assert!(text.contains(seen), "{seen} in {text}");
    }
}
