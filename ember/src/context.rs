//! What the handlers of one app share: state, and the names of routes.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;

/// Makes a thread's copy of a state.
type Make = Box<dyn Fn() -> Box<dyn Any> + Send + Sync>;

/// The part that all threads have.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) states: Vec<(TypeId, Make)>,
    /// The patterns of named routes.
    pub(crate) names: BTreeMap<String, String>,
    /// The proxies that are believed.
    pub(crate) trusted: Vec<IpNet>,
}

/// One thread's view of it. Counting references to it is no work shared with other threads.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    made: RefCell<Vec<(TypeId, Box<dyn Any>)>>,
}

thread_local! {
    static LOCALS: RefCell<Vec<Rc<Local>>> = const { RefCell::new(Vec::new()) };
}

impl Local {
    /// This thread's view, made where it was none.
    pub(crate) fn of(shared: &Arc<Shared>) -> Rc<Local> {
        LOCALS.with_borrow_mut(|locals| {
            if let Some(local) = locals.iter().find(|local| Arc::ptr_eq(&local.shared, shared)) {
                return Rc::clone(local);
            }
            let local =
                Rc::new(Local { shared: Arc::clone(shared), made: RefCell::new(Vec::new()) });
            locals.push(Rc::clone(&local));
            local
        })
    }

    /// The state whose handle is an `S`.
    pub(crate) fn state<S: Clone + 'static>(&self) -> Option<S> {
        let id = TypeId::of::<S>();
        let known = |made: &[(TypeId, Box<dyn Any>)]| {
            let (_, state) = made.iter().find(|(of, _)| *of == id)?;
            state.downcast_ref::<S>().cloned()
        };
        if let Some(state) = known(&self.made.borrow()) {
            return Some(state);
        }
        let (_, make) = self.shared.states.iter().find(|(of, _)| *of == id)?;
        // Not borrowed while it runs: it may ask for another state.
        let state = make();
        self.made.borrow_mut().push((id, state));
        known(&self.made.borrow())
    }
}

impl Shared {
    /// The path of a named route.
    pub(crate) fn url_for(&self, name: &str, params: &[(&str, &str)]) -> crate::Result<String> {
        let wrong = |what: String| crate::Error::new(500, format!("a path for {name}: {what}"));
        let pattern = self.names.get(name).ok_or_else(|| wrong("no route of that name".into()))?;
        let mut path = String::with_capacity(pattern.len());
        let mut rest = pattern.as_str();
        while let Some((before, behind)) = rest.split_once('{') {
            path.push_str(before);
            let Some((parameter, behind)) = behind.split_once('}') else { break };
            let (of, converter) = parameter.split_once(':').unwrap_or((parameter, "str"));
            let value = params.iter().find(|(name, _)| *name == of);
            let (_, value) = value.ok_or_else(|| wrong(format!("no value for {{{of}}}")))?;
            if value.is_empty() {
                return Err(wrong(format!("the value for {{{of}}} is empty")));
            }
            if converter == "path" {
                let parts: Vec<String> = value.split('/').map(encode_segment).collect();
                path.push_str(&parts.join("/"));
            } else {
                path.push_str(&encode_segment(value));
            }
            rest = behind;
        }
        path.push_str(rest);
        Ok(path)
    }
}

/// One segment of a path (RFC 3986 section 3.3): all but the unreserved characters is encoded.
fn encode_segment(segment: &str) -> String {
    const UNRESERVED: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encoding::utf8_percent_encode(segment, UNRESERVED).to_string()
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("names", &self.names).finish_non_exhaustive()
    }
}
