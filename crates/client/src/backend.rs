//! What a streamer is connected to.

use std::{fmt, path::PathBuf};

use millstream_core::{
    Error, ErrorKind, PlanContext, Planner, Registry, Result, Role, Secret, SeekTo, SinkPlan, SourcePlan, Url,
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

/// A streaming system: where a streamer gets its sources and sinks from.
///
/// Implement it to choose the system at compile time, by type ([`Streamer::of`](crate::Streamer::of)); [`ByUrl`] chooses at
/// run time. Nothing here does I/O. One value serves all consumers and producers of a streamer, so what they share, such as
/// the hub of the standard streams, can live in it.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Plans a source over these streams; none: those that the backend names itself, or all.
    ///
    /// `group`: read as a member of this group, if the system shares records among members. If it does not
    /// ([`groups`](millstream_core::SourceCapabilities::groups) is false), plan without: the client shares them.
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>>;

    /// Plans a sink to this stream; an empty name: the one that the backend names itself.
    fn sink(&self, stream: &str) -> Result<Box<dyn SinkPlan>>;

    /// Where the backend's own options say to begin.
    fn start(&self) -> Option<SeekTo> {
        None
    }

    /// The file beside which positions of consumers may be kept, for streams that are files.
    fn beside(&self) -> Option<PathBuf> {
        None
    }

    /// What it is connected to, for people; secrets hidden.
    fn describe(&self) -> String;
}

/// A system that a URL names, out of the components of a registry.
///
/// The URL names the system, or what of it comes before the streams: `stdio:`, `file:///data/x.ss`, `redis://host`. The
/// streams of a consumer or producer become the last part of its path: `file:///data/x.ss/a,b`. A URL may also name the
/// streams itself; then consumers and producers name none.
pub struct ByUrl {
    url: Url,
    text: Secret<String>,
    registry: Registry,
}

/// What must be encoded in a stream's name within a path.
const NAME: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'/').add(b',').add(b'?').add(b'#').add(b'@');

impl ByUrl {
    /// Reads a URL; a scheme that no component of the registry has is an error.
    pub fn new(url: &str, registry: Registry) -> Result<Self> {
        let parsed = Url::parse(url)?;
        if !registry.iter().any(|component| component.schemes.contains(&parsed.scheme.as_str())) {
            registry.by_url(Role::Source, &parsed)?;
        }
        if let Some(start) = parsed.option("start") {
            start.parse::<SeekTo>().map_err(|error| error.within("start"))?;
        }
        Ok(ByUrl { url: parsed, text: Secret::new(url.to_owned()), registry })
    }

    /// The component of a role, and its options with these streams.
    fn component(&self, role: Role, streams: &[&str]) -> Result<(&millstream_core::Component, Value)> {
        if streams.is_empty() {
            return self.registry.by_url(role, &self.url);
        }
        if streams.iter().any(|name| name.is_empty()) {
            return Err(Error::new(ErrorKind::Option, "a stream has an empty name")
                .hint("name the streams, or none for those that the URL names"));
        }
        let names: Vec<String> = streams.iter().map(|name| utf8_percent_encode(name, NAME).to_string()).collect();
        let (path, query) = match self.text.expose().split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (self.text.expose().as_str(), String::new()),
        };
        let url = Url::parse(&format!("{}/{}{query}", path.trim_end_matches('/'), names.join(",")))?;
        self.registry.by_url(role, &url)
    }
}

fn wrong_role(role: Role) -> Error {
    Error::new(ErrorKind::Bug, format!("the registry holds something else as a {role}"))
}

impl Backend for ByUrl {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let (component, mut options) = self.component(Role::Source, streams)?;
        if let (Some(group), Some(options)) = (group, options.as_object_mut()) {
            let schema = (component.schema)();
            if schema.get("properties").is_some_and(|properties| properties.get("group").is_some()) {
                options.entry("group").or_insert_with(|| Value::String(group.to_owned()));
            }
        }
        match component.planner {
            Planner::Source(plan) => plan(&options, &PlanContext::default()),
            _ => Err(wrong_role(Role::Source)),
        }
        .map_err(|error| error.context(format!("cannot read {}", self.url)))
    }

    fn sink(&self, stream: &str) -> Result<Box<dyn SinkPlan>> {
        let streams: &[&str] = if stream.is_empty() { &[] } else { &[stream] };
        let (component, options) = self.component(Role::Sink, streams)?;
        match component.planner {
            Planner::Sink(plan) => plan(&options, &PlanContext::default()),
            _ => Err(wrong_role(Role::Sink)),
        }
        .map_err(|error| error.context(format!("cannot write {}", self.url)))
    }

    fn start(&self) -> Option<SeekTo> {
        self.url.option("start").and_then(|start| start.parse().ok())
    }

    fn beside(&self) -> Option<PathBuf> {
        let (_, options) = self.registry.by_url(Role::Source, &self.url).ok()?;
        options.get("path")?.as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn describe(&self) -> String {
        self.url.to_string()
    }
}

impl fmt::Debug for ByUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ByUrl").field(&self.url).finish()
    }
}
