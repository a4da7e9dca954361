//! Pages that list a directory.

use std::fmt::Write;
use std::io;
use std::sync::Arc;

use ember::{IntoResponse, Response};
use ember_http::date;
use rustix::fs::{Dir, FileType};

use super::place::{Place, is_served};
use super::rules::Rules;
use super::tree::{Tree, Wait};
use super::{helpers, reply};

/// Entries of one page; a directory with more is said to go on.
const ENTRIES_MAX: usize = 10_000;

struct Line {
    name: String,
    is_directory: bool,
    len: u64,
    modified: u64,
}

/// The page of a directory. `path` is that of the request.
pub(super) async fn page(
    tree: &Arc<Tree>,
    rules: &Arc<Rules>,
    place: Place,
    path: &str,
) -> Response {
    let (tree, rules) = (Arc::clone(tree), Arc::clone(rules));
    match helpers::run(move || lines(&tree, &rules, &place)).await {
        Ok((lines, is_whole)) => Response::new(200)
            .header("Content-Type", "text/html; charset=utf-8")
            // It has no validator, and is out of date with the next file.
            .header("Cache-Control", "no-cache")
            .body(render(&lines, is_whole, path))
            .into_response(),
        Err(error) => reply::failure(&error),
    }
}

/// What can be asked for in a directory, sorted: directories first.
fn lines(tree: &Tree, rules: &Rules, place: &Place) -> io::Result<(Vec<Line>, bool)> {
    let directory = tree.directory(&place.path)?;
    let mut lines = Vec::new();
    let mut is_whole = true;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        // What is no UTF-8 cannot be asked for.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if !is_served(name, rules.dotfiles) {
            continue;
        }
        // Found the way it would be served, so that links which are not followed are not shown.
        let Ok(stat) = tree.stat(&place.join(name), Wait::Allowed) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            continue;
        }
        if lines.len() == ENTRIES_MAX {
            is_whole = false;
            break;
        }
        lines.push(Line {
            name: name.to_owned(),
            is_directory: kind == FileType::Directory,
            len: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: u64::try_from(stat.st_mtime).unwrap_or_default(),
        });
    }
    lines.sort_by(|one, other| {
        other.is_directory.cmp(&one.is_directory).then_with(|| one.name.cmp(&other.name))
    });
    Ok((lines, is_whole))
}

fn render(lines: &[Line], is_whole: bool, path: &str) -> String {
    let title = escape(&ember_http::decode_part(path));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>td {{ padding-right: 2em }} .size {{ text-align: right }}</style>\n</head>\n\
         <body>\n<h1>{title}</h1>\n<table>\n<tr><td><a href=\"../\">../</a></td></tr>\n"
    );
    for line in lines {
        let slash = if line.is_directory { "/" } else { "" };
        // After "./" no name can be taken for a scheme.
        let link = ember_http::encode_path(&line.name.replace('%', "%25"));
        let (link, name) = (escape(&link), escape(&line.name));
        let size = if line.is_directory { String::new() } else { line.len.to_string() };
        let date = date::format(line.modified);
        let date = String::from_utf8_lossy(&date);
        let _ = writeln!(
            page,
            "<tr><td><a href=\"./{link}{slash}\">{name}{slash}</a></td><td>{date}</td>\
             <td class=\"size\">{size}</td></tr>"
        );
    }
    page.push_str("</table>\n");
    if !is_whole {
        let _ = writeln!(page, "<p>More than {ENTRIES_MAX} entries; the others are not shown.</p>");
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters have no place in HTML, and may reverse what is read.
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_and_links_lead_to_them() {
        let line =
            |name: &str| Line { name: name.into(), is_directory: false, len: 7, modified: 0 };
        let names = ["<script>", "a&b\"c'", "javascript:x", "100%", "a?b#c", "new\nline", "é"];
        let page = render(&names.map(line), true, "/<b>/100%25/");
        for part in [
            "<title>/&lt;b&gt;/100%/</title>",
            "./%3Cscript%3E\">&lt;script&gt;<",
            ">a&amp;b&quot;c&#39;<",
            "href=\"./javascript:x\"",
            "href=\"./100%25\"",
            "href=\"./a%3Fb%23c\"",
            "href=\"./new%0Aline\"",
            "href=\"./%C3%A9\"",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("<script>"));
    }
}
