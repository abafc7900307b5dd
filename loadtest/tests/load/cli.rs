//! What a command line does, from its flags to its exit code.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use clap::Parser;
use glint_loadtest::{Gate, LoadtestConfig};
use serde_json::Value;

use crate::mock::{Mock, Step, answer, piece, status, wait_for};

/// Flags for [`as_a_command`], which is this test binary called as if it were `glint loadtest`.
const FLAGS: &str = "GLINT_LOADTEST_TEST_FLAGS";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: LoadtestConfig,
}

#[test]
fn as_a_command() {
    let Ok(flags) = std::env::var(FLAGS) else { return };
    let cli = Cli::try_parse_from(std::iter::once("loadtest").chain(flags.split('\n')));
    let code = match cli {
        Err(error) => {
            eprintln!("{error}");
            2
        }
        Ok(cli) => match glint_loadtest::run(cli.config) {
            Ok(Gate::Passed) => 0,
            Ok(Gate::Failed) => 3,
            Err(error) => {
                eprintln!("error: {error:#}");
                1
            }
        },
    };
    std::process::exit(code);
}

fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["cli::as_a_command", "--exact", "--nocapture"]);
    command.env(FLAGS, flags.join("\n")).stdin(Stdio::null());
    command
}

/// Exit code, standard output, standard error.
pub(crate) fn loadtest(flags: &[&str]) -> (i32, String, String) {
    ended(command(flags).output().unwrap())
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A short closed loop, with the flags of a test after it.
fn short<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut flags = vec!["run", "--url", url, "--quiet", "--concurrency", "2", "--requests", "6"];
    flags.extend(more);
    flags
}

#[test]
fn a_run_prints_a_table_writes_its_files_and_passes_its_assertions() {
    let mock = Mock::start(|_| answer(&["a", "b"]));
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let metrics = format!("{}/metrics", mock.url());
    let url = mock.url();
    let more = [
        "--json",
        json.to_str().unwrap(),
        "--metrics-url",
        &metrics,
        "--assert",
        "failed_share<1%",
        "--tenant-key",
        "a=secret",
        "--tenant",
        "a",
    ];
    let (code, out, err) = loadtest(&short(&url, &more));
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("TTFT"), "{out}");
    let report = read(&json);
    assert_eq!(report["runs"][0]["summary"]["done"], 6);
    assert_eq!(report["targets"][0]["model"], "tiny");
    assert_eq!(report["assertions"][0]["holds"], true);
    assert_eq!(report["runs"][0]["server"][0]["metric"], "queue_depth");
    assert!(mock.seen().iter().all(|seen| seen.headers["authorization"] == "Bearer secret"));

    let (code, out, _) = loadtest(&short(&url, &["--assert", "ttft_p50<0.001us"]));
    assert_eq!(code, 3, "{out}");
}

#[test]
fn a_server_that_is_not_there_is_told_in_one_sentence() {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, err) = loadtest(&short(&format!("http://{free}"), &[]));
    assert_eq!(code, 1);
    assert!(err.contains("is the server running?: cannot connect to 127.0.0.1:"), "{err}");
    assert_eq!(err.lines().filter(|line| line.starts_with("error")).count(), 1, "{err}");
}

#[test]
fn wrong_flags_say_what_to_write() {
    let mock = Mock::start(|_| answer(&["a"]));
    let url = mock.url();
    for (more, code, words) in [
        (&["--model", "huge"][..], 1, "serves no model huge; it serves tiny, other"),
        (&["--slo", "ttft_p95"], 2, "write it like ttft_p95<500ms"),
        (&["--assert", "tfft<1s"], 2, "no figure is called `tfft`"),
        (&["--json", "/no/such/folder/run.json"], 1, "there is no folder /no/such/folder"),
        (&["--prompt-form", "tokens"], 1, "the chat endpoint takes no token ids"),
        (&["--rate", "1"], 2, "cannot be used with"),
    ] {
        let (was, out, err) = loadtest(&short(&url, more));
        assert_eq!(was, code, "{more:?}: {out}{err}");
        assert!(err.contains(words), "{err}");
    }
    let user = format!("http://me:secret@{}", mock.address);
    let (code, _, err) = loadtest(&short(&user, &[]));
    assert!(code == 1 && err.contains("--api-key") && !err.contains("secret"), "{err}");
    let path = format!("{url}/gateway/v1");
    assert!(loadtest(&short(&path, &[])).2.contains("leave the path /gateway/v1 out"));
    assert_eq!(loadtest(&["run", "--url", &url, "-q"]).0, 1);
}

#[test]
fn a_malformed_trace_line_ends_the_test_with_its_number_and_what_was_measured_is_kept() {
    let mock = Mock::start(|_| answer(&["a"]));
    let folder = tempfile::tempdir().unwrap();
    let (trace, json) = (folder.path().join("trace.jsonl"), folder.path().join("run.json"));
    let lines = [
        r#"{"at_s":0,"prompt":"hi","output_tokens":4}"#,
        r#"{"at_s":0.05,"prompt":"hi","output_tokens":4}"#,
        r#"{"at_s":0.1,"prompt":"hi","output_tokens":4}"#,
        r#"{"at_s":0.2,"promt":"hi"}"#,
    ];
    std::fs::write(&trace, lines.join("\n")).unwrap();
    let url = mock.url();
    let flags = [
        "run",
        "-q",
        "--url",
        &url,
        "--trace",
        trace.to_str().unwrap(),
        "--json",
        json.to_str().unwrap(),
    ];
    let (code, out, err) = loadtest(&flags);
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("the test ended early: ") && err.contains("line 4: "), "{err}");
    assert!(err.contains("promt"), "{err}");
    let report = read(&json);
    assert!(report["runs"][0]["summary"]["done"].as_u64().unwrap() >= 1, "{report}");
    assert!(report["warnings"].to_string().contains("line 4"), "{report}");
}

#[test]
fn a_result_that_cannot_be_written_is_printed_instead() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    std::fs::create_dir(&results).unwrap();
    let json = results.join("run.json");
    // There was a folder when the test began.
    let mock = Mock::start(move |_| {
        if results.exists() {
            std::fs::remove_dir_all(&results).unwrap();
        }
        answer(&["a"])
    });
    let (code, out, err) = loadtest(&short(&mock.url(), &["--json", json.to_str().unwrap()]));
    assert_eq!(code, 1);
    assert!(err.contains("could not be written to"), "{err}");
    let printed = out.lines().find(|line| line.starts_with('{')).unwrap();
    let report: Value = serde_json::from_str(printed).unwrap();
    assert_eq!(report["runs"][0]["summary"]["done"], 6);
}

#[test]
fn ctrl_c_twice_cuts_what_runs_and_reports_the_rest() {
    let mock = Mock::start(|seen| match seen.number {
        0 | 1 => answer(&["a"]),
        _ => vec![Step::Head, Step::Events(vec![piece("a")]), Step::Forever],
    });
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let mut command = command(&short(&mock.url(), &["--json", json.to_str().unwrap()]));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("both streams to hang", || mock.seen().len() == 4);
    let id = rustix::process::Pid::from_child(&child);
    let interrupted = std::thread::spawn(move || child.wait_with_output().unwrap());
    // The first asks it to end, the second says that it must; signals that come at once count as one.
    wait_for("the command to end", || {
        if !interrupted.is_finished() {
            let _gone = rustix::process::kill_process(id, rustix::process::Signal::INT);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        interrupted.is_finished()
    });
    let (code, out, err) = ended(interrupted.join().unwrap());
    assert_eq!(code, 0, "{out}{err}");
    let report = read(&json);
    let summary = &report["runs"][0]["summary"];
    assert_eq!((&summary["done"], &summary["unfinished"]), (&2.into(), &2.into()), "{report}");
    assert!(report["warnings"].to_string().contains("interrupted by the user"), "{report}");
}

#[test]
fn a_sweep_measures_each_rate_and_find_max_needs_a_server_that_holds() {
    let mock = Mock::start(|_| answer(&["a"]));
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("sweep.json");
    let (url, json_path) = (mock.url(), json.to_str().unwrap());
    let (code, out, err) = loadtest(&[
        "sweep",
        "-q",
        "--url",
        &url,
        "--rates",
        "20,40",
        "--duration-s",
        "0.3",
        "--json",
        json_path,
    ]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(read(&json)["runs"].as_array().unwrap().len(), 2);
    let (code, out, err) = loadtest(&[
        "find-max",
        "-q",
        "--url",
        &url,
        "--duration-s",
        "0.3",
        "--from",
        "160",
        "--lowest",
        "80",
        "--slo",
        "ttft_p50<0.001us",
        "--json",
        json_path,
    ]);
    assert_eq!(code, 3, "{out}{err}");
    let report = read(&json);
    assert_eq!(report["find_max"]["rate"], Value::Null);
    assert!(report["warnings"].to_string().contains("not even the lowest rate"), "{report}");
    assert!(report["warnings"].to_string().contains("too short to see a queue grow"), "{report}");
}

#[test]
fn a_test_without_an_answer_and_a_probe_without_requests_are_no_success() {
    let mock =
        Mock::start(|_| status("503 Service Unavailable", r#"{"error":{"message":"no group"}}"#));
    let url = mock.url();
    let (code, out, err) =
        loadtest(&["run", "-q", "--url", &url, "--concurrency", "1", "--requests", "3"]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("not one of 3 requests was answered whole"), "{err}");
    assert!(err.contains("no group"), "{err}");
    let (code, out, err) = loadtest(&["find-max", "-q", "--url", &url, "--duration-s", "0.2"]);
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("sends too few to"), "{out}");
}
