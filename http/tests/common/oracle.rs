//! What the usual site should make of a whole stream of bytes, found out slowly: by cutting the
//! stream into lines and lists of strings. Shares no code with the crate.

/// What happens, one line an event, as [`super::Client`] logs it without reasons. The second part
/// says that the stream ends within a head or a body, which the machine may have found wrong
/// already.
pub fn log_of(stream: &[u8]) -> (Vec<String>, bool) {
    let mut log = Vec::new();
    let mut rest = stream;
    loop {
        let text = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") else {
            return (log, true);
        };
        let (head, behind) = (&text[..end], &text[end + 4..]);
        let request = match request_of(head) {
            Ok(request) => request,
            Err(status) => {
                log.push(format!("refuse {status}"));
                return (log, false);
            }
        };
        let body = body_of(&request.framing, behind);
        let open = request.answer(&body, &mut log);
        match body {
            Body::Whole(_, after) if open => rest = after,
            Body::Partial if open || request.dispatched => return (log, true),
            _ => return (log, false),
        }
    }
}

struct Request {
    method: String,
    answer: Answer,
    keep: bool,
    expects: bool,
    framing: Framing,
    dispatched: bool,
}

enum Answer {
    Event(String),
    Dispatch(String),
}

enum Framing {
    Length(u64),
    Chunked,
}

enum Body<'b> {
    Whole(Vec<u8>, &'b [u8]),
    Partial,
    Wrong,
}

impl Request {
    /// Logs the answer; whether the connection goes on.
    fn answer(&self, body: &Body<'_>, log: &mut Vec<String>) -> bool {
        let path = match &self.answer {
            Answer::Event(event) => {
                log.push(event.clone());
                // What was answered already is not refused: the connection just ends.
                return self.keep && !self.expects && !matches!(body, Body::Wrong);
            }
            Answer::Dispatch(path) => path,
        };
        log.push(format!("request {} {path}", self.method));
        match body {
            Body::Whole(data, _) => {
                if !matches!(self.framing, Framing::Length(0)) {
                    log.push(format!("body {:?}", String::from_utf8_lossy(data)));
                }
                self.keep
            }
            Body::Partial => false,
            Body::Wrong => {
                log.push("refuse 400".into());
                false
            }
        }
    }
}

fn is_token(text: &[u8]) -> bool {
    let others = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || others.contains(b))
}

/// The head's meaning, or the status it is refused with.
fn request_of(head: &[u8]) -> Result<Request, u16> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    let (method, target, version) = request_line(lines[0])?;
    let mut fields = Vec::new();
    for line in &lines[1..] {
        // The line that is one too many is not looked at, but for a bare CR at its beginning.
        if fields.len() == 100 && !line.starts_with(b"\r") {
            return Err(431);
        }
        fields.push(field(line)?);
    }
    let all = |name: &str| -> Vec<String> {
        fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    };
    let hosts = all("host");
    if hosts.len() > 1 || (hosts.is_empty() && version == "1.1") {
        return Err(400);
    }
    if hosts.iter().any(|host| !is_host(host)) {
        return Err(400);
    }
    let framing = framing(&all("content-length"), &all("transfer-encoding"), &version)?;
    let has_body = !matches!(framing, Framing::Length(0));
    let expect = if version == "1.0" { Vec::new() } else { all("expect") };
    if expect.iter().any(|value| !value.eq_ignore_ascii_case("100-continue")) {
        return Err(417);
    }
    let options: Vec<String> = all("connection")
        .iter()
        .flat_map(|value| {
            value.split(',').map(|o| o.trim_matches([' ', '\t']).to_lowercase()).collect::<Vec<_>>()
        })
        .collect();
    let named = |option: &str| options.iter().any(|o| o == option);
    let keep = !named("close") && (version == "1.1" || named("keep-alive"));
    let expects = !expect.is_empty() && has_body;
    let answer = answer_of(&method, &target, &fields)?;
    if let (Answer::Dispatch(_), Framing::Length(length)) = (&answer, &framing)
        && *length > 4 << 20
    {
        return Err(413);
    }
    // A body too long to skip costs the connection.
    let skippable = !matches!(framing, Framing::Length(length) if length > 256 << 10);
    let dispatched = matches!(answer, Answer::Dispatch(_));
    Ok(Request {
        method,
        answer,
        keep: keep && (skippable || dispatched),
        expects,
        framing,
        dispatched,
    })
}

fn request_line(line: &[u8]) -> Result<(String, String, String), u16> {
    let token_len = line.iter().take_while(|b| is_token(&[**b])).count();
    if token_len > 32 {
        return Err(501);
    }
    let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    if !is_token(parts[0]) || parts.len() < 2 {
        return Err(400);
    }
    let illegal = |b: &u8| *b <= 0x20 || *b >= 0x7f || b"\"<>#".contains(b);
    if parts.len() != 3 || parts[1].is_empty() || parts[1].iter().any(illegal) {
        return Err(400);
    }
    let version = match parts[2] {
        b"HTTP/1.0" => "1.0",
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => "1.1",
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(505),
        _ => return Err(400),
    };
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    Ok((text(parts[0]), text(parts[1]), version.into()))
}

fn field(line: &[u8]) -> Result<(String, String), u16> {
    let colon = line.iter().position(|b| *b == b':').ok_or(400u16)?;
    if !is_token(&line[..colon]) {
        return Err(400);
    }
    let value = &line[colon + 1..];
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(400);
    }
    let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
    // Latin-1, so that every byte is a character.
    let value: String = value.iter().map(|b| *b as char).collect();
    Ok((name, value.trim_matches([' ', '\t']).to_owned()))
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rfind(']') {
        Some(end) => (&host[..=end], &host[end + 1..]),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port_is_one = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some("") => true,
        Some(digits) => {
            digits.len() <= 5
                && digits.chars().all(|c| c.is_ascii_digit())
                && digits.parse::<u16>().is_ok()
        }
    };
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let name_is_one = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let without_escapes = unescaped(name);
            without_escapes.is_some_and(|plain| {
                plain.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=\0".contains(b))
            }) && !name.contains('\0')
        }
    };
    name_is_one && port_is_one
}

/// The name with each percent-encoding made a NUL; `None` if one is broken.
fn unescaped(name: &str) -> Option<Vec<u8>> {
    let bytes: Vec<u8> =
        name.chars().map(|c| if c as u32 > 0x7f { 0xff } else { c as u8 }).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = bytes.get(at + 1..at + 3)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            out.push(0);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    Some(out)
}

fn framing(lengths: &[String], codings: &[String], version: &str) -> Result<Framing, u16> {
    if !codings.is_empty() {
        if !lengths.is_empty() || version == "1.0" {
            return Err(400);
        }
        let list: Vec<String> = codings
            .iter()
            .flat_map(|value| {
                value
                    .split(',')
                    .map(|c| c.trim_matches([' ', '\t']).to_lowercase())
                    .collect::<Vec<_>>()
            })
            .collect();
        if list == ["chunked"] {
            return Ok(Framing::Chunked);
        }
        let known = ["gzip", "x-gzip", "deflate", "compress", "x-compress"];
        let (last, others) = list.split_last().expect("split gives one at least");
        let foreign = last == "chunked" && others.iter().all(|c| known.contains(&c.as_str()));
        return Err(if foreign { 501 } else { 400 });
    }
    match lengths {
        [] => Ok(Framing::Length(0)),
        [one] if (1..=18).contains(&one.len()) && one.chars().all(|c| c.is_ascii_digit()) => {
            Ok(Framing::Length(one.parse().expect("digits")))
        }
        _ => Err(400),
    }
}

fn answer_of(method: &str, target: &str, fields: &[(String, String)]) -> Result<Answer, u16> {
    let path = match path_of(method, target)? {
        Some(path) => path,
        None => return Ok(Answer::Event("answer 204".into())),
    };
    let method_name = match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS" | "TRACE" => method,
        _ => "OTHER",
    };
    let is_task = path.strip_prefix("/tasks/").is_some_and(|id| {
        let digits = id.strip_prefix('-').unwrap_or(id);
        !digits.is_empty()
            && digits.chars().all(|c| c.is_ascii_digit())
            && id.parse::<i64>().is_ok()
    });
    let methods: &[&str] = match path.as_str() {
        "/hello" | "/health" => &["GET", "HEAD"],
        "/echo" => &["GET", "HEAD", "POST"],
        "/old" => return Ok(Answer::Event(format!("prepared {method_name} 308"))),
        _ if is_task => &["GET", "HEAD"],
        _ => return Ok(Answer::Event("refuse 404".into())),
    };
    if !methods.contains(&method) {
        let status = if method == "OPTIONS" { 204 } else { 405 };
        return Ok(Answer::Event(format!("answer {status}")));
    }
    if path == "/echo" || is_task {
        return Ok(Answer::Dispatch(path));
    }
    // Conditions and ranges have tables of their own; here only their absence is sure.
    let conditional =
        ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "range"];
    if fields.iter().any(|(name, _)| conditional.contains(&name.as_str())) {
        return Ok(Answer::Event("any".into()));
    }
    Ok(Answer::Event(format!("prepared {method} 200")))
}

/// The normalised path; none for the asterisk.
fn path_of(method: &str, target: &str) -> Result<Option<String>, u16> {
    if method == "CONNECT" {
        let has_port = target
            .rfind(':')
            .is_some_and(|at| at + 1 < target.len() && !target[at..].contains(']'));
        let named = !target.starts_with(':');
        return Err(if is_host(target) && has_port && named { 501 } else { 400 });
    }
    let raw = if target.starts_with('/') {
        target.to_owned()
    } else if target == "*" && method == "OPTIONS" {
        return Ok(None);
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(400u16)?;
        if !["http", "https"].contains(&scheme.to_lowercase().as_str()) {
            return Err(400);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !is_host(authority) || authority.is_empty() || authority.starts_with(':') {
            return Err(400);
        }
        match path {
            "" if method == "OPTIONS" => return Ok(None),
            _ if path.starts_with('/') => path.to_owned(),
            _ => format!("/{path}"),
        }
    };
    let path = raw.split('?').next().expect("split gives one at least");
    if path.contains(['{', '}', '`', '\\']) {
        return Err(400);
    }
    let decoded = decode(path.as_bytes()).ok_or(400u16)?;
    let mut segments: Vec<&str> = Vec::new();
    let parts: Vec<&str> = decoded[1..].split('/').collect();
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        match *part {
            "." => {}
            ".." => {
                segments.pop().ok_or(400u16)?;
            }
            name => {
                segments.push(name);
                continue;
            }
        }
        if last {
            segments.push("");
        }
    }
    Ok(Some(format!("/{}", segments.join("/"))))
}

fn decode(path: &[u8]) -> Option<String> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        if path[at] != b'%' {
            out.push(path[at]);
            at += 1;
            continue;
        }
        let digits = std::str::from_utf8(path.get(at + 1..at + 3)?).ok()?;
        if !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        match u8::from_str_radix(digits, 16).ok()? {
            0 => return None,
            byte @ (b'/' | b'%') => out.extend(format!("%{byte:02X}").bytes()),
            byte => out.push(byte),
        }
        at += 3;
    }
    String::from_utf8(out).ok()
}

fn body_of<'b>(framing: &Framing, bytes: &'b [u8]) -> Body<'b> {
    match framing {
        Framing::Length(length) => match usize::try_from(*length) {
            Ok(length) if length <= bytes.len() => {
                Body::Whole(bytes[..length].to_vec(), &bytes[length..])
            }
            _ => Body::Partial,
        },
        Framing::Chunked => chunks(bytes),
    }
}

fn chunks(bytes: &[u8]) -> Body<'_> {
    let mut data = Vec::new();
    let mut rest = bytes;
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Body::Partial;
        };
        let Some(size) = chunk_line(&rest[..end]) else { return Body::Wrong };
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(chunk) = rest.get(..size) else { return Body::Partial };
        data.extend_from_slice(chunk);
        rest = &rest[size..];
        match rest {
            [b'\r', b'\n', ..] => rest = &rest[2..],
            [] | [b'\r'] => return Body::Partial,
            _ => return Body::Wrong,
        }
    }
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Body::Partial;
        };
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line.is_empty() {
            return Body::Whole(data, rest);
        }
        if field(line).is_err() {
            return Body::Wrong;
        }
    }
}

/// The size that a chunk's first line says, extensions checked.
fn chunk_line(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if !(1..=15).contains(&digits) {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
    let mut rest = &line[digits..];
    while !rest.is_empty() {
        rest = rest.strip_prefix(b";")?;
        rest = token(rest)?;
        if let Some(value) = rest.strip_prefix(b"=") {
            rest = match value.strip_prefix(b"\"") {
                Some(quoted) => quoted_end(quoted)?,
                None => token(value)?,
            };
        }
    }
    Some(size)
}

fn token(text: &[u8]) -> Option<&[u8]> {
    let len = text.iter().take_while(|b| is_token(&[**b])).count();
    (len > 0).then(|| &text[len..])
}

fn quoted_end(text: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(&text[at + 1..]),
            byte if (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f => return None,
            b'\\' => {
                let escaped = text.get(at + 1)?;
                if (*escaped < 0x20 && *escaped != b'\t') || *escaped == 0x7f {
                    return None;
                }
                at += 2;
            }
            _ => at += 1,
        }
    }
}
