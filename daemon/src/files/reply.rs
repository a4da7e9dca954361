//! What is answered when a file was found: conditions, codings, ranges.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use ember::{Body, Error, IntoResponse, Response};
use ember_http::Request;
use ember_http::conditional::Verdict;
use ember_http::range::{Multipart, Ranges, content_range};
use ember_uring::Piece;

use super::body::{FileBody, Segment, WINDOW};
use super::content::{Content, Need};
use super::entry::{Field, Representation, is_missing};
use super::store::Cached;

/// The reply of a file; `None` when it has changed since it was opened, and must be opened anew.
pub(super) fn file(request: &Request<'_>, cached: &Rc<Cached>) -> Option<Response> {
    let entry = &cached.entry;
    let chosen = if entry.coded.is_empty() { None } else { request.negotiate(&entry.codings) };
    let number = chosen.map_or(0, |coded| coded + 1);
    let form = entry.form(number);
    if !form.is_unchanged() {
        return None;
    }
    let validators = form.validators();
    Some(match request.evaluate(&validators) {
        Verdict::NotModified => with(Response::new(304), &form.cache_fields),
        Verdict::Failed => Response::new(412),
        Verdict::Proceed => match request.ranges(&validators, form.len) {
            Ranges::Whole => {
                let body = whole(cached, number, form);
                with(Response::new(200), &form.fields).with_body(body)
            }
            Ranges::One(range) => {
                let response = with(Response::new(206), &form.fields)
                    .header("Content-Range", content_range(&range, form.len));
                response.with_body(part(cached, number, form, range))
            }
            Ranges::Many(ranges) => many(cached, number, form, &ranges),
            Ranges::Unsatisfiable => {
                Response::new(416).header("Content-Range", format!("bytes */{}", form.len))
            }
        },
    })
}

/// The redirect from a directory to its slash.
pub(super) fn slash(request: &Request<'_>) -> Response {
    // The normalised path: what was sent may begin with two slashes, which names another host.
    let mut location = ember_http::encode_path(request.path());
    location.push('/');
    if let Some(query) = request.query() {
        location.push('?');
        location.push_str(&String::from_utf8_lossy(query));
    }
    Response::new(308).header("Location", location)
}

/// What is answered where there is no file to send.
pub(super) fn failure(error: &io::Error) -> Response {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    let is_exhausted =
        exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    match error.kind() {
        _ if is_missing(error) => Error::new(404, "there is no such file"),
        io::ErrorKind::PermissionDenied => Error::new(403, "this file may not be read"),
        _ if is_exhausted => Error::new(503, "too many files are open; try again"),
        _ => Error::new(500, "the file cannot be read"),
    }
    .into_response()
}

fn with(mut response: Response, fields: &[Field]) -> Response {
    response.headers_mut().extend(fields.iter().cloned());
    response
}

fn whole(cached: &Rc<Cached>, number: usize, form: &Representation) -> Body {
    match &form.content {
        Content::Small(bytes) => Body::Piece(Piece::Shared(bytes.clone())),
        _ => part(cached, number, form, 0..form.len),
    }
}

fn part(cached: &Rc<Cached>, number: usize, form: &Representation, range: Range<u64>) -> Body {
    match &form.content {
        Content::Small(bytes) => {
            Body::Bytes(bytes[range.start as usize..range.end as usize].to_vec())
        }
        Content::Mapped(blocks)
            if range.end - range.start <= WINDOW
                && matches!(blocks.need(&range), Need::Nothing) =>
        {
            Body::Piece(blocks.piece(&range))
        }
        _ => Body::stream(FileBody::new(cached, number, vec![Segment::File(range)])),
    }
}

fn many(
    cached: &Rc<Cached>,
    number: usize,
    form: &Representation,
    ranges: &[Range<u64>],
) -> Response {
    let multipart = Multipart::new(ranges, form.len, Some(&form.content_type), seed());
    let content_type = multipart.content_type();
    let mut segments = Vec::with_capacity(2 * ranges.len() + 1);
    for (head, range) in multipart.part_heads.into_iter().zip(ranges) {
        segments.push(Segment::Bytes(head.into_bytes()));
        segments.push(Segment::File(range.clone()));
    }
    segments.push(Segment::Bytes(multipart.end.into_bytes()));
    let fields = form.fields.iter().filter(|(name, _)| name != "Content-Type");
    let mut response = Response::new(206).header("Content-Type", content_type);
    response.headers_mut().extend(fields.cloned());
    response.with_body(Body::stream(FileBody::new(cached, number, segments)))
}

/// A number that clients cannot guess, so that no file can hold the boundary on purpose.
fn seed() -> u64 {
    thread_local! {
        static STATE: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
    }
    STATE.with(|(keys, count)| {
        count.set(count.get().wrapping_add(1));
        keys.hash_one(count.get())
    })
}
