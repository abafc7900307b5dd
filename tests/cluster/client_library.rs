//! Does the OpenAI client library get what it expects?

use std::process::Command;

use crate::support::Cluster;

#[test]
fn the_openai_client_library_works_against_a_running_cluster() {
    let Some(python) = std::env::var_os("GLINT_PYTHON") else {
        assert!(std::env::var_os("GLINT_REQUIRE_PYTHON").is_none(), "GLINT_PYTHON is not set");
        println!("skipped: GLINT_PYTHON names no Python with the openai package, run `make test`");
        return;
    };
    let cluster = Cluster::start(&["--model=tiny", "--compute=f32"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/openai_client.py");
    let output = Command::new(python).arg(script).arg(&cluster.url).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.trim_end().ends_with("OK"), "{text}");
}
