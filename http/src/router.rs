//! Which route answers a path: a trie of segments with converters.
//!
//! A pattern is a path whose segments may be parameters: `{name}` or `{name:str}` takes any
//! segment that is not empty, `{name:int}` a decimal integer that fits 64 bits, `{name:float}` a
//! decimal number, `{name:uuid}` 32 hexadecimal digits in the usual groups, and `{name:path}`, as
//! the last segment, all the rest. Where several patterns fit, the first segment that differs
//! decides: literal before uuid, int, float, str, path. What a pattern cannot take, or has no
//! method for, the next one gets. (A ready-made router such as matchit knows one parameter a place
//! and does not come back from it, so that `/a/{x:int}/b` beside `/a/{x}/{y}` would lose paths.)

use std::fmt;

use rustc_hash::FxHashMap;

use crate::method::{Method, Methods};
use crate::target::normalise;

/// What a parameter takes. The order is that of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Converter {
    /// `{x:uuid}`
    Uuid,
    /// `{x:int}`
    Int,
    /// `{x:float}`
    Float,
    /// `{x}` or `{x:str}`
    Str,
    /// `{x:path}`
    Path,
}

impl Converter {
    fn from_name(name: &str) -> Option<Converter> {
        match name {
            "uuid" => Some(Converter::Uuid),
            "int" => Some(Converter::Int),
            "float" => Some(Converter::Float),
            "str" => Some(Converter::Str),
            "path" => Some(Converter::Path),
            _ => None,
        }
    }

    fn takes(self, segment: &str) -> bool {
        match self {
            Converter::Uuid => is_uuid(segment.as_bytes()),
            Converter::Int => is_int(segment),
            Converter::Float => is_float(segment),
            Converter::Str | Converter::Path => !segment.is_empty(),
        }
    }
}

fn is_uuid(segment: &[u8]) -> bool {
    segment.len() == 36
        && segment.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_int(segment: &str) -> bool {
    let digits = segment.strip_prefix('-').unwrap_or(segment);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && segment.parse::<i64>().is_ok()
}

fn is_float(segment: &str) -> bool {
    let digits = segment.strip_prefix('-').unwrap_or(segment);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    is_number(whole) && is_number(fraction)
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// It does not begin with a slash.
    NoSlash,
    /// A literal part is not a legal path.
    Literal,
    /// A brace stands elsewhere than around a whole segment.
    Brace,
    /// The parameter has no name, or one that is not made of letters, digits and `_`.
    ParameterName,
    /// Two parameters have the same name.
    ParameterRepeated(String),
    /// A converter that does not exist.
    Converter(String),
    /// `{x:path}` is not the last segment.
    PathNotLast,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::NoSlash => f.write_str("a path begins with `/`"),
            PatternError::Literal => f.write_str("not a legal path; check its `%` and `..`"),
            PatternError::Brace => f.write_str("a parameter is a whole segment, as in `/{id}/x`"),
            PatternError::ParameterName => {
                f.write_str("a parameter's name is made of letters, digits and `_`")
            }
            PatternError::ParameterRepeated(name) => write!(f, "`{name}` stands there twice"),
            PatternError::Converter(name) => {
                write!(f, "no converter `{name}`; there are str, int, float, uuid and path")
            }
            PatternError::PathNotLast => f.write_str("`{x:path}` must be the last segment"),
        }
    }
}

impl std::error::Error for PatternError {}

enum Segment {
    Literal(String),
    Parameter(String, Converter),
}

/// Takes a pattern apart.
fn segments_of(pattern: &str) -> Result<Vec<Segment>, PatternError> {
    let rest = pattern.strip_prefix('/').ok_or(PatternError::NoSlash)?;
    let mut segments: Vec<Segment> = Vec::new();
    for segment in rest.split('/') {
        if matches!(segments.last(), Some(Segment::Parameter(_, Converter::Path))) {
            return Err(PatternError::PathNotLast);
        }
        let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        if inner.unwrap_or(segment).contains(['{', '}']) {
            return Err(PatternError::Brace);
        }
        segments.push(match inner {
            Some(inner) => parameter(inner)?,
            None => literal(segment)?,
        });
    }
    let mut names = Vec::new();
    for segment in &segments {
        let Segment::Parameter(name, _) = segment else { continue };
        if names.contains(&name) {
            return Err(PatternError::ParameterRepeated(name.clone()));
        }
        names.push(name);
    }
    Ok(segments)
}

fn parameter(inner: &str) -> Result<Segment, PatternError> {
    let (name, converter) = inner.split_once(':').unwrap_or((inner, "str"));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(PatternError::ParameterName);
    }
    let converter = Converter::from_name(converter)
        .ok_or_else(|| PatternError::Converter(converter.to_owned()))?;
    Ok(Segment::Parameter(name.to_owned(), converter))
}

fn literal(segment: &str) -> Result<Segment, PatternError> {
    let path = format!("/{segment}");
    let mut scratch = String::new();
    let path = normalise(path.as_bytes(), &mut scratch).map_err(|_| PatternError::Literal)?;
    // `.` and `..` come out of the rule as something else than what they name.
    if matches!(segment, "." | "..") {
        return Err(PatternError::Literal);
    }
    Ok(Segment::Literal(path[1..].to_owned()))
}

/// Where a path parameter's value lies in the normalised path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParamSpan {
    pub(crate) start: u16,
    pub(crate) end: u16,
}

/// One method set of one pattern.
#[derive(Clone, Debug)]
struct Leaf {
    methods: Methods,
    route: u16,
}

#[derive(Default)]
struct Node {
    literals: FxHashMap<Box<str>, usize>,
    /// Sorted by converter, which is the order of precedence.
    parameters: Vec<(Converter, usize)>,
    leaves: Vec<Leaf>,
    /// Leaves of `{x:path}` behind this node, and whether the rest may be empty.
    tails: Vec<(Leaf, bool)>,
}

/// The outcome of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Route(u16),
    /// Patterns fit, but none has the method.
    OtherMethods(Methods),
    Nothing,
}

/// The routes of one host, or of all.
pub(crate) struct Table {
    nodes: Vec<Node>,
    /// Patterns without parameters by their whole path: the common case in one look-up.
    exact: FxHashMap<Box<str>, Vec<Leaf>>,
}

/// A pattern and method that two routes claim.
#[derive(Debug)]
pub(crate) struct Clash {
    pub(crate) other: u16,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { nodes: vec![Node::default()], exact: FxHashMap::default() }
    }

    /// Adds a route; gives the names of its parameters in order.
    pub(crate) fn add(
        &mut self,
        pattern: &str,
        methods: Methods,
        route: u16,
    ) -> Result<Result<Vec<String>, Clash>, PatternError> {
        let segments = segments_of(pattern)?;
        let leaf = Leaf { methods, route };
        let mut names = Vec::new();
        if segments.iter().all(|segment| matches!(segment, Segment::Literal(_))) {
            let path: String = segments.iter().fold(String::new(), |path, segment| match segment {
                Segment::Literal(text) => path + "/" + text,
                Segment::Parameter(..) => path,
            });
            let leaves = self.exact.entry(path.into_boxed_str()).or_default();
            return Ok(push(leaves, leaf).map(|()| names));
        }
        let mut node = 0;
        for segment in segments {
            match segment {
                Segment::Literal(text) => node = self.child(node, text),
                Segment::Parameter(name, Converter::Path) => {
                    names.push(name);
                    return Ok(self.push_tail(node, leaf, false).map(|()| names));
                }
                Segment::Parameter(name, converter) => {
                    names.push(name);
                    node = self.parameter_child(node, converter);
                }
            }
        }
        Ok(push(&mut self.nodes[node].leaves, leaf).map(|()| names))
    }

    /// Adds a route for a path and everything below it.
    pub(crate) fn add_prefix(
        &mut self,
        prefix: &str,
        methods: Methods,
        route: u16,
    ) -> Result<Result<(), Clash>, PatternError> {
        let mut node = 0;
        let trimmed = prefix.strip_suffix('/').unwrap_or(prefix);
        if !prefix.starts_with('/') {
            return Err(PatternError::NoSlash);
        }
        if !trimmed.is_empty() {
            let leaf = Leaf { methods, route };
            for segment in segments_of(trimmed)? {
                let Segment::Literal(text) = segment else { return Err(PatternError::Brace) };
                node = self.child(node, text);
            }
            if let Err(clash) = push(&mut self.nodes[node].leaves, leaf) {
                return Ok(Err(clash));
            }
        }
        Ok(self.push_tail(node, Leaf { methods, route }, true))
    }

    fn push_tail(&mut self, node: usize, leaf: Leaf, may_be_empty: bool) -> Result<(), Clash> {
        let tails = &mut self.nodes[node].tails;
        if let Some((other, _)) = tails.iter().find(|(t, _)| t.methods.intersects(leaf.methods)) {
            return Err(Clash { other: other.route });
        }
        tails.push((leaf, may_be_empty));
        Ok(())
    }

    fn child(&mut self, node: usize, text: String) -> usize {
        if let Some(&child) = self.nodes[node].literals.get(text.as_str()) {
            return child;
        }
        self.nodes.push(Node::default());
        let child = self.nodes.len() - 1;
        self.nodes[node].literals.insert(text.into_boxed_str(), child);
        child
    }

    fn parameter_child(&mut self, node: usize, converter: Converter) -> usize {
        let parameters = &self.nodes[node].parameters;
        if let Some((_, child)) = parameters.iter().find(|(other, _)| *other == converter) {
            return *child;
        }
        self.nodes.push(Node::default());
        let child = self.nodes.len() - 1;
        self.nodes[node].parameters.push((converter, child));
        self.nodes[node].parameters.sort_unstable_by_key(|(converter, _)| *converter);
        child
    }

    /// Finds the route of a normalised path. `params` is left with the places of the parameters.
    pub(crate) fn find(&self, method: Method, path: &str, params: &mut Vec<ParamSpan>) -> Lookup {
        params.clear();
        let mut search = Search { table: self, method, path, allowed: Methods::NONE };
        if let Some(leaves) = self.exact.get(path)
            && let Some(route) = search.choose(leaves.iter())
        {
            return Lookup::Route(route);
        }
        if path.starts_with('/')
            && let Some(route) = search.walk(0, Some(1), params)
        {
            return Lookup::Route(route);
        }
        if search.allowed.is_empty() {
            Lookup::Nothing
        } else {
            Lookup::OtherMethods(search.allowed)
        }
    }
}

fn push(leaves: &mut Vec<Leaf>, leaf: Leaf) -> Result<(), Clash> {
    if let Some(other) = leaves.iter().find(|other| other.methods.intersects(leaf.methods)) {
        return Err(Clash { other: other.route });
    }
    leaves.push(leaf);
    Ok(())
}

struct Search<'t> {
    table: &'t Table,
    method: Method,
    path: &'t str,
    /// The methods of all patterns that fit so far.
    allowed: Methods,
}

impl Search<'_> {
    fn choose<'l>(&mut self, leaves: impl Iterator<Item = &'l Leaf>) -> Option<u16> {
        for leaf in leaves {
            if leaf.methods.contains(self.method) {
                return Some(leaf.route);
            }
            self.allowed = self.allowed.union(leaf.methods);
        }
        None
    }

    /// Goes on at `node` with the segment that begins at `at`, or with the path's end. Every node
    /// stands for one number of segments, so none is visited twice.
    fn walk(&mut self, node: usize, at: Option<usize>, params: &mut Vec<ParamSpan>) -> Option<u16> {
        let node = &self.table.nodes[node];
        let Some(at) = at else { return self.choose(node.leaves.iter()) };
        let rest = &self.path[at..];
        let end = rest.find('/').map_or(self.path.len(), |slash| at + slash);
        let next = (end < self.path.len()).then_some(end + 1);
        let segment = &self.path[at..end];
        if let Some(&child) = node.literals.get(segment)
            && let Some(route) = self.walk(child, next, params)
        {
            return Some(route);
        }
        for &(converter, child) in &node.parameters {
            if !converter.takes(segment) {
                continue;
            }
            let depth = params.len();
            params.push(ParamSpan { start: at as u16, end: end as u16 });
            if let Some(route) = self.walk(child, next, params) {
                return Some(route);
            }
            params.truncate(depth);
        }
        let tails = node.tails.iter().filter(|(_, may_be_empty)| *may_be_empty || !rest.is_empty());
        let route = self.choose(tails.map(|(leaf, _)| leaf))?;
        params.push(ParamSpan { start: at as u16, end: self.path.len() as u16 });
        Some(route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Methods = Methods::of(&[Method::Get]);
    const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    fn table(patterns: &[&str]) -> Table {
        let mut table = Table::new();
        for (route, pattern) in patterns.iter().enumerate() {
            table.add(pattern, GET, route as u16).expect(pattern).expect(pattern);
        }
        table
    }

    fn find(table: &Table, path: &str) -> Option<(u16, Vec<String>)> {
        let mut params = Vec::new();
        match table.find(Method::Get, path, &mut params) {
            Lookup::Route(route) => {
                let value = |span: &ParamSpan| path[span.start as usize..span.end as usize].into();
                Some((route, params.iter().map(value).collect()))
            }
            _ => None,
        }
    }

    #[test]
    fn converters_take_what_their_names_say() {
        for (converter, yes, no) in [
            (Converter::Int, vec!["0", "-7", "007"], vec!["", "-", "1.0", "9223372036854775808"]),
            (Converter::Float, vec!["0", "-1.5", "3.25"], vec!["", ".", "1.", ".5", "1e3", "NaN"]),
            (Converter::Uuid, vec![UUID], vec!["", "67e55044", &UUID[1..]]),
            (Converter::Str, vec!["a", "1"], vec![""]),
        ] {
            for segment in yes {
                assert!(converter.takes(segment), "{converter:?} {segment}");
            }
            for segment in no {
                assert!(!converter.takes(segment), "{converter:?} {segment}");
            }
        }
        assert!(!Converter::Int.takes("+7"));
    }

    #[test]
    fn the_narrower_pattern_wins_and_the_wider_takes_what_is_left() {
        let patterns =
            ["/a/{x:int}/b", "/a/{x}/{y}", "/a/7/b", "/a/{x:uuid}", "/a/{x:float}", "/a/{x:path}"];
        let table = table(&patterns);
        let found = |path: &str| find(&table, path).map(|(route, _)| patterns[route as usize]);
        assert_eq!(found("/a/7/b"), Some("/a/7/b"));
        assert_eq!(found("/a/8/b"), Some("/a/{x:int}/b"));
        assert_eq!(found("/a/8/c"), Some("/a/{x}/{y}"));
        assert_eq!(found("/a/z/b"), Some("/a/{x}/{y}"));
        assert_eq!(found("/a/1.5"), Some("/a/{x:float}"));
        assert_eq!(found(&format!("/a/{UUID}")), Some("/a/{x:uuid}"));
        assert_eq!(found("/a/z/b/c"), Some("/a/{x:path}"));
        assert_eq!(found("/a/"), None);
        assert_eq!(found("/a"), None);
        assert_eq!(
            find(&table, "/a/q/r").map(|(_, params)| params),
            Some(vec!["q".into(), "r".into()])
        );
        assert_eq!(find(&table, "/a/q/r/s").map(|(_, params)| params), Some(vec!["q/r/s".into()]));
    }

    #[test]
    fn prefixes_take_themselves_and_all_below() {
        let mut table = table(&["/assets/logo"]);
        table.add_prefix("/assets", GET, 1).expect("pattern").expect("no clash");
        for path in ["/assets", "/assets/", "/assets/x", "/assets/x/y/", "/assets/logo/x"] {
            assert_eq!(find(&table, path).map(|(route, _)| route), Some(1), "{path}");
        }
        assert_eq!(find(&table, "/assets/logo"), Some((0, vec![])));
        assert_eq!(find(&table, "/assetsx"), None);
        let mut all = Table::new();
        all.add_prefix("/", GET, 0).expect("pattern").expect("no clash");
        assert_eq!(find(&all, "/"), Some((0, vec![String::new()])));
        assert_eq!(find(&all, "/x/y"), Some((0, vec!["x/y".into()])));
    }

    #[test]
    fn methods_of_all_fitting_patterns_are_allowed() {
        let mut table = table(&["/t/{x:int}", "/t/1"]);
        let delete = Methods::of(&[Method::Delete]);
        table.add("/t/{y}", delete, 2).expect("pattern").expect("no clash");
        let mut params = Vec::new();
        assert_eq!(table.find(Method::Delete, "/t/1", &mut params), Lookup::Route(2));
        assert_eq!(params.len(), 1);
        let allowed = GET.union(delete);
        assert_eq!(table.find(Method::Put, "/t/1", &mut params), Lookup::OtherMethods(allowed));
        assert_eq!(table.find(Method::Put, "/u", &mut params), Lookup::Nothing);
    }

    #[test]
    fn bad_patterns_say_why() {
        let error = |pattern| Table::new().add(pattern, GET, 0).expect_err(pattern);
        assert_eq!(error("x"), PatternError::NoSlash);
        assert_eq!(error("/a{x}"), PatternError::Brace);
        assert_eq!(error("/{x"), PatternError::Brace);
        assert_eq!(error("/{}"), PatternError::ParameterName);
        assert_eq!(error("/{x:hex}"), PatternError::Converter("hex".into()));
        assert_eq!(error("/{x:path}/y"), PatternError::PathNotLast);
        assert_eq!(error("/{x}/{x}"), PatternError::ParameterRepeated("x".into()));
        assert_eq!(error("/a/%zz"), PatternError::Literal);
        assert_eq!(error("/a/../b"), PatternError::Literal);
        let mut table = table(&["/{x}"]);
        assert_eq!(table.add("/{y}", GET, 1).expect("pattern").expect_err("clash").other, 0);
    }
}
