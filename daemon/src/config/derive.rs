//! Fills in what follows from other keys: names from paths, buffers from the profile, the body
//! from its file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize as _;
use serde_json::{Value as Json, json};

use super::check::{Checked, Written};
use super::coded;
use super::keys;
use super::literal;
use super::model::{Bytes, Encoding};
use super::report::Finding;
use super::source::SourceMap;
use crate::application;
use crate::rules::password;

/// Bytes of a prepared body; each of its variants is pinned in memory, on each node.
const BODY_MAX: u64 = 64 << 20;

/// Fills in derived values; what stands against it is a finding.
pub(crate) fn fill(checked: &mut Checked, sources: &SourceMap) {
    checked.json.remove("include");
    fill_ring(checked);
    fill_reach(checked, sources);
    for_each(checked, "listener", |listener, _, _| name_after(listener, "address"));
    for_each(checked, "files", |files, path, checked| fill_files(files, path, checked, sources));
    for_each(checked, "metrics", |metrics, _, _| name_after(metrics, "path"));
    for_each(checked, "proxy", |proxy, _, _| name_after(proxy, "prefix"));
    for_each(checked, "redirect", |redirect, _, _| name_after(redirect, "path"));
    for_each(checked, "prepared", |prepared, path, checked| {
        name_after(prepared, "path");
        fill_body(prepared, path, checked, sources);
    });
    for list in ["files", "proxy", "redirect", "prepared"] {
        for_each(checked, list, |table, path, checked| {
            fill_rules(table, path, checked, sources);
        });
    }
}

/// Puts the rules together that every section with routes has, and reads their files.
fn fill_rules(table: &mut Json, path: &str, checked: &mut Checked, sources: &SourceMap) {
    let Some(table) = table.as_object_mut() else { return };
    let mut rules: serde_json::Map<String, Json> =
        keys::rules().filter_map(|name| table.remove_entry(name)).collect();
    // Files and prepared replies have fields of their own, which are not for errors.
    if path.starts_with("redirect") || path.starts_with("proxy") {
        rules.extend(table.remove_entry("headers"));
    }
    if let Some(auth) = rules.get_mut("auth").filter(|auth| auth.is_object()) {
        fill_auth(auth, path, checked, sources);
    }
    table.insert("rules".to_owned(), rules.into());
}

/// Reads who may ask, while whoever reads the config can.
fn fill_auth(auth: &mut Json, path: &str, checked: &mut Checked, sources: &SourceMap) {
    let mut read = |key: &str| -> Option<String> {
        let path = format!("{path}.auth.{key}");
        let place = checked.places.get(&path)?.value;
        let file = sources.resolve(place, auth[key].as_str()?);
        let fault = |why: String| Finding::error("unreadable", place, why);
        match read_body(&file).map(|(bytes, _)| String::from_utf8(bytes)) {
            Ok(Ok(text)) => Some(text),
            Ok(Err(_)) => {
                checked.findings.push(fault(format!("`{path}` is not UTF-8")));
                None
            }
            Err(error) => {
                let help = format!("looked for {}", file.display());
                checked
                    .findings
                    .push(fault(format!("`{path}` cannot be read: {error}")).help(help));
                None
            }
        }
    };
    let (users, tokens) = (read("basic_file"), read("bearer_file"));
    let place = |key: &str| checked.places.get(&format!("{path}.auth.{key}")).copied();
    let mut found = Vec::new();
    let mut fault = |key: &str, (line, why): (usize, String)| {
        if let Some(written) = place(key) {
            let message = format!("`{path}.auth.{key}`, line {line}: {why}");
            found.push(Finding::error("bad_value", written.value, message));
        }
    };
    let users = users.map(|text| password::users(&text));
    let users = users.transpose().unwrap_or_else(|why| {
        fault("basic_file", why);
        None
    });
    let tokens = tokens.map(|text| password::tokens(&text));
    let tokens = tokens.transpose().unwrap_or_else(|why| {
        fault("bearer_file", why);
        None
    });
    if place("basic_file").is_none()
        && place("bearer_file").is_none()
        && let Some(written) = checked.places.get(&format!("{path}.auth"))
    {
        found.push(
            Finding::error("missing", written.value, format!("`{path}.auth` lets nobody in"))
                .help("add `basic_file` or `bearer_file`"),
        );
    }
    checked.findings.extend(found);
    let realm = auth["realm"].take();
    *auth = json!({
        "users": users.unwrap_or_default(),
        "tokens": tokens.unwrap_or_default(),
        "realm": realm,
    });
}

/// Calls `fill` on each table of a list, with its path in the sources.
fn for_each(
    checked: &mut Checked,
    list: &'static str,
    mut fill: impl FnMut(&mut Json, &str, &mut Checked),
) {
    let Some(mut tables) = checked.json.get_mut(list).map(Json::take) else { return };
    let kept = checked.kept.get(list).cloned().unwrap_or_default();
    for (table, index) in tables.as_array_mut().into_iter().flatten().zip(kept) {
        fill(table, &format!("{list}[{index}]"), checked);
    }
    checked.json.insert(list.to_owned(), tables);
}

fn fill_ring(checked: &mut Checked) {
    let Some(Json::Object(ring)) = checked.json.get_mut("ring") else { return };
    let profile = ring.remove("profile").unwrap_or_default();
    let (buffers, buffer_size) = keys::profile(profile.as_str().unwrap_or_default());
    for (key, value) in [("buffers", buffers), ("buffer_size", buffer_size)] {
        if ring.get(key).is_none_or(Json::is_null) {
            ring.insert(key.to_owned(), value.into());
        }
    }
}

fn fill_reach(checked: &mut Checked, sources: &SourceMap) {
    let Some(Json::Object(workers)) = checked.json.get_mut("workers") else { return };
    if let (Some(written), Some(Json::Array(files))) =
        (checked.places.get("workers.readable"), workers.get_mut("readable"))
    {
        for file in files {
            let path = sources.resolve(written.value, file.as_str().unwrap_or_default());
            *file = json!(path);
        }
    }
    // Nobody but its author knows where a program's own handlers connect to.
    if application::is_there() && !checked.places.contains_key("workers.connect") {
        workers.insert("connect".to_owned(), Json::Null);
    }
}

fn name_after(table: &mut Json, key: &str) {
    if table["name"].is_null() {
        table["name"] = literal::address(&table[key]).map_or(table[key].clone(), Json::from);
    }
}

/// The route and its source go together: a prefix has a directory, a path has a file.
fn fill_files(files: &mut Json, path: &str, checked: &mut Checked, sources: &SourceMap) {
    for (route, source) in [("prefix", "root"), ("path", "file")] {
        name_after(files, route);
        let written = |key: &str| checked.places.get(&format!("{path}.{key}")).copied();
        match (written(route), written(source)) {
            (Some(_), Some(place)) => {
                let name = files[source].as_str().unwrap_or_default();
                let resolved = sources.resolve(place.value, name);
                files[source] = resolved.to_string_lossy().into_owned().into();
            }
            (Some(one), None) => checked.findings.push(
                Finding::error("missing", one.key, format!("`{path}` has no `{source}`"))
                    .help(format!("`{route}` says where, `{source}` says what: add it")),
            ),
            (None, Some(other)) => checked.findings.push(
                Finding::error("missing", other.key, format!("`{path}` has no `{route}`"))
                    .help(format!("`{source}` says what, `{route}` says where: add it")),
            ),
            (None, None) => {}
        }
    }
    let written = |key: &str| checked.places.get(&format!("{path}.{key}")).copied();
    match (written("prefix"), written("path")) {
        (Some(one), Some(other)) => checked.findings.push(
            Finding::error("both", other.key, format!("`{path}` has `prefix` and `path`"))
                .other(one.key, "a directory is served here")
                .help("write a [[files]] of its own for the one file"),
        ),
        (None, None) if written("root").is_none() && written("file").is_none() => {
            if let Some(table) = checked.places.get(path) {
                checked.findings.push(
                    Finding::error("missing", table.key, format!("`{path}` serves nothing")).help(
                        "add `prefix` and `root` for a directory, `path` and `file` for one file",
                    ),
                );
            }
        }
        _ => {}
    }
}

fn fill_body(prepared: &mut Json, path: &str, checked: &mut Checked, sources: &SourceMap) {
    let Some(table) = prepared.as_object_mut() else { return };
    let inline = table.remove("body").unwrap_or_default();
    let file = table.remove("body_file").unwrap_or_default();
    let written = |key: &str| checked.places.get(&format!("{path}.{key}")).copied();
    let mut modified = None;
    let mut bytes = inline.as_str().map(|text| text.as_bytes().to_vec()).unwrap_or_default();
    if let (Some(body), Some(file)) = (written("body"), written("body_file")) {
        checked.findings.push(
            Finding::error("both", file.key, format!("`{path}` has `body` and `body_file`"))
                .label("a body a second time")
                .other(body.key, "the body is given here")
                .help("leave one of them out"),
        );
    } else if let (Some(name), Some(file)) = (file.as_str(), written("body_file")) {
        match read_body(&sources.resolve(file.value, name)) {
            Ok((body, time)) => (bytes, modified) = (body, time),
            Err(error) => checked.findings.push(
                Finding::error(
                    "unreadable",
                    file.value,
                    format!("`{path}.body_file` cannot be read: {error}"),
                )
                .help(format!("looked for {}", sources.resolve(file.value, name).display())),
            ),
        }
    }
    if table["content_type"].is_null() {
        let known = file.as_str().and_then(|name| media_type(Path::new(name)));
        table["content_type"] = known.unwrap_or("text/plain; charset=utf-8").into();
    }
    if table["last_modified"] == "off" {
        modified = None;
    }
    let encodings = table.remove("encodings").unwrap_or_default();
    let coded = coded(&encodings, &bytes, written("encodings"), checked);
    table.insert("last_modified".to_owned(), json!(modified));
    table.insert("coded".to_owned(), json!(coded));
    table.insert("body".to_owned(), json!(Bytes(bytes)));
}

/// The body in the codings that were asked for and are worth it.
fn coded(
    encodings: &Json,
    body: &[u8],
    written: Option<Written>,
    checked: &mut Checked,
) -> Vec<(Encoding, Bytes)> {
    let mut coded: Vec<(Encoding, Bytes)> = Vec::new();
    let Ok(encodings) = Vec::<Encoding>::deserialize(encodings) else { return coded };
    for encoding in encodings {
        if coded.iter().any(|(known, _)| *known == encoding) {
            continue;
        }
        match coded::encode(encoding, body) {
            Ok(bytes) if bytes.len() < body.len() => coded.push((encoding, Bytes(bytes))),
            Ok(_) => {}
            Err(error) => {
                if let Some(written) = written {
                    let message = format!("the body cannot be compressed: {error}");
                    checked.findings.push(Finding::error("bad_value", written.value, message));
                }
            }
        }
    }
    coded
}

/// The bytes of a file, and when it was modified.
fn read_body(path: &Path) -> io::Result<(Vec<u8>, Option<u64>)> {
    let file = File::open(path)?;
    // A FIFO would block, a device would never end.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut body = Vec::new();
    file.take(BODY_MAX + 1).read_to_end(&mut body)?;
    if body.len() as u64 > BODY_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", BODY_MAX >> 20)));
    }
    let now = SystemTime::now();
    // A time to come would make a wrong validator (RFC 9110 section 8.8.2.1).
    let modified = metadata.modified().ok().map(|time| time.min(now));
    let seconds = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((body, seconds.map(|seconds| seconds.as_secs())))
}

fn media_type(path: &Path) -> Option<&'static str> {
    const TYPES: &[(&str, &str)] = &[
        ("css", "text/css; charset=utf-8"),
        ("csv", "text/csv; charset=utf-8"),
        ("gif", "image/gif"),
        ("htm", "text/html; charset=utf-8"),
        ("html", "text/html; charset=utf-8"),
        ("ico", "image/x-icon"),
        ("jpeg", "image/jpeg"),
        ("jpg", "image/jpeg"),
        ("js", "text/javascript; charset=utf-8"),
        ("json", "application/json"),
        ("mjs", "text/javascript; charset=utf-8"),
        ("pdf", "application/pdf"),
        ("png", "image/png"),
        ("svg", "image/svg+xml"),
        ("txt", "text/plain; charset=utf-8"),
        ("wasm", "application/wasm"),
        ("webp", "image/webp"),
        ("woff2", "font/woff2"),
        ("xml", "application/xml"),
    ];
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    let known = TYPES.iter().find(|(known, _)| *known == extension);
    Some(known.map_or("application/octet-stream", |(_, kind)| kind))
}
