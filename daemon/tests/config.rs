//! What a person sees of the config: messages, exit codes, the files that are made from the
//! table of keys.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program with nothing in its environment, in the folder of the test's configs.
fn emberd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
    command.args(arguments).env_clear().current_dir(configs()).stdin(Stdio::null());
    command
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Holds a file of the repository to what is made now; `UPDATE=1` writes it anew.
fn golden(file: &Path, made: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, made).unwrap();
    }
    let kept = fs::read_to_string(file).unwrap_or_default();
    assert!(
        kept == made,
        "{} is not what is made now; UPDATE=1 writes it:\n{made}",
        file.display()
    );
}

#[test]
fn every_fault_is_told_with_its_place_and_mend() {
    let output = emberd(&["check", "-c", "every-fault.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(out(&output), "");
    golden(&configs().join("every-fault.txt"), &err(&output));
}

#[test]
fn json_says_the_same_to_programs() {
    let output = emberd(&["check", "-c", "every-fault.toml", "--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let human = fs::read_to_string(configs().join("every-fault.txt")).unwrap();
    let told = human.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(report["errors"].as_u64(), Some(told as u64));
    let source = fs::read_to_string(configs().join("every-fault.toml")).unwrap();
    let typo = findings
        .iter()
        .find(|finding| {
            finding["code"] == "unknown_key" && finding["help"] == "did you mean `header_timeout`?"
        })
        .unwrap();
    let line = source.lines().position(|line| line.starts_with("header_timout")).unwrap() + 1;
    assert_eq!(typo["line"].as_u64(), Some(line as u64));
    assert_eq!((typo["column"].as_u64(), typo["end_column"].as_u64()), (Some(1), Some(14)));
    assert_eq!(typo["file"], "every-fault.toml");
}

#[test]
fn broken_toml_is_told_at_its_line_and_does_not_hide_the_rest() {
    let output = checked("[limits]\nmax_body = 4MiB\nmax_headr = \"1KiB\"\n\n[ring\n");
    let text = err(&output);
    assert_eq!(output.status.code(), Some(78));
    for part in ["<stdin>:2:", "did you mean `max_header`?", "<stdin>:5:", "not valid TOML"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

/// `emberd check` of this text on standard input.
fn checked(config: &str) -> Output {
    let mut child = emberd(&["check", "-c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn warnings_are_an_error_only_where_asked() {
    let open = ["--set", "listener.0.address=0.0.0.0:8080", "--set", "metrics.0.allow=[]"];
    let check = |more: &[&str]| {
        let arguments = [&["check"], &open[..], more].concat();
        emberd(&arguments).output().unwrap()
    };
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(
        err(&output).contains("warning: everybody who reaches 0.0.0.0:8080"),
        "{}",
        err(&output)
    );
    assert_eq!(check(&["--deny-warnings"]).status.code(), Some(78));
    let quiet = emberd(&["check", "--deny-warnings"]).output().unwrap();
    assert_eq!((quiet.status.code(), err(&quiet)), (Some(0), String::new()));
}

#[test]
fn colours_are_for_terminals() {
    for arguments in [&["check", "-c", "every-fault.toml"][..], &["routes"], &["--help"]] {
        let output = emberd(arguments).output().unwrap();
        let escapes = [&output.stdout[..], &output.stderr[..]].concat().contains(&0x1b);
        assert!(!escapes, "{arguments:?}");
    }
}

#[test]
fn usage_errors_end_with_two_and_missing_files_with_78() {
    assert_eq!(emberd(&["--nonsense"]).output().unwrap().status.code(), Some(2));
    let output = emberd(&["check", "-c", "no-such-file.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).contains("cannot read no-such-file.toml"), "{}", err(&output));
}

#[test]
fn a_server_does_not_start_on_a_bad_config() {
    let output = emberd(&["--listen", "8080"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).starts_with("error: `listener[0].address`"), "{}", err(&output));
    let output = emberd(&["-c", "-"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("must be a file"), "{}", err(&output));
}

#[test]
fn flags_go_over_variables_and_those_over_the_file() {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    fs::write(file.path(), "[ring]\nbackend = \"auto\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let dump = |arguments: &[&str], variable: Option<&str>| {
        let mut command = emberd(&[&["config", "dump", "-c", path], arguments].concat());
        let output =
            command.envs(variable.map(|value| ("EMBERD_BACKEND", value))).output().unwrap();
        let text = out(&output);
        let line = text.lines().find(|line| line.starts_with("ring.backend")).unwrap_or_default();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(dump(&[], None), format!("ring.backend = \"auto\" # {path}:2"));
    assert_eq!(dump(&[], Some("auto")), "ring.backend = \"auto\" # EMBERD_BACKEND");
    assert_eq!(
        dump(&["--backend", "io_uring"], Some("auto")),
        "ring.backend = \"io_uring\" # --backend"
    );
    assert_eq!(
        dump(&["--backend", "io_uring", "--set", "ring.backend=auto"], None),
        "ring.backend = \"auto\" # --set ring.backend=auto"
    );
}

#[test]
fn options_before_the_command_count_too() {
    let output = emberd(&["--listen", "[::1]:80", "routes", "--set", "limits.max_body=1MiB"])
        .output()
        .unwrap();
    assert!(out(&output).contains("listener default: [::1]:80"), "{}", out(&output));
}

#[test]
fn the_reference_is_what_the_table_says() {
    let output = emberd(&["config", "reference"]).output().unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    golden(&page, &out(&output));
}

#[test]
fn a_config_to_begin_with_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("emberd.toml");
    let file = file.to_str().unwrap();
    assert_eq!(emberd(&["config", "init", file]).output().unwrap().status.code(), Some(0));
    let output = emberd(&["check", "--deny-warnings", "-c", file]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let again = emberd(&["config", "init", file]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("cannot write"), "{}", err(&again));
}

#[test]
fn the_schema_takes_good_configs_and_refuses_bad_ones() {
    let schema = out(&emberd(&["config", "schema"]).output().unwrap());
    let script = r#"
import json, sys, tomllib
try:
    import jsonschema
except ImportError:
    print("skipped: python3-jsonschema is not installed"); sys.exit(0)
schema = json.loads(sys.argv[1])
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        errors = [error.message for error in validator.iter_errors(tomllib.load(file))]
    if path.endswith("every-fault.toml"):
        assert len(errors) > 15, errors
    else:
        assert not errors, (path, errors)
"#;
    let folder = tempfile::tempdir().unwrap();
    let init = folder.path().join("init.toml");
    fs::write(&init, out(&emberd(&["config", "init"]).output().unwrap())).unwrap();
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/default.toml");
    let output = Command::new("python3")
        .args(["-c", script, &schema])
        .args([&init, &embedded, &configs().join("full.toml"), &configs().join("every-fault.toml")])
        .output()
        .unwrap();
    print!("{}", out(&output));
    assert!(output.status.success(), "{}", err(&output));
}

#[test]
fn completions_and_man_pages_are_made() {
    let script = out(&emberd(&["completions", "bash"]).output().unwrap());
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success() && script.contains("--deny-warnings"));
    let folder = tempfile::tempdir().unwrap();
    let made = emberd(&["man", folder.path().to_str().unwrap()]).output().unwrap();
    assert!(made.status.success(), "{}", err(&made));
    for page in ["emberd.1", "emberd-check.1", "emberd-config-dump.1"] {
        assert!(fs::read_to_string(folder.path().join(page)).unwrap().contains(".TH"), "{page}");
    }
}
