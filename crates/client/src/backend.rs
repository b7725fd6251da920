//! A system that is chosen at run time.

use std::{fmt, path::PathBuf};

use millstream_core::{
    Backend, Component, Error, ErrorKind, PlanContext, Planner, Registry, Result, Role, Secret, SeekTo, SinkPlan,
    SourcePlan, Url,
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};

/// A system that a URL names, out of the components of a registry.
///
/// The URL names the system, or what of it comes before the streams: `stdio:`, `file:///data/x.ss`, `redis://host`. The
/// streams of a consumer or producer become the last part of its path: `file:///data/x.ss/a,b`. A URL may also name the
/// streams itself; then consumers and producers name none. Its options may be those of the source and of the sink. The group
/// is that of each consumer, with what the URL says of `group` besides its name.
pub struct ByUrl {
    url: Url,
    text: Secret<String>,
    registry: Registry,
}

/// What must be encoded in a stream's name within a path.
const NAME: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'/').add(b',').add(b'?').add(b'#').add(b'@');

/// The option of sources that names a group, alone or with how to take part.
const GROUP: &str = "group";

/// The option of sources that says how to take part in a group, where that stands apart.
const MEMBERSHIP: &str = "membership";

/// The option of sinks that can say in the stream that it has ended.
const END: &str = "end_of_stream";

/// The options of sinks that say who chooses the shard of a record, and what they say where the record does.
const SHARD_BY: [(&str, &str); 2] = [("partition", "origin"), ("sharder", "origin")];

/// The option of sinks that write to the shard of a record's origin unless it names another.
const SHARD: &str = "shard";

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

    /// The URL with these streams behind its path, and without these options.
    fn url(&self, streams: &[&str], without: &[String]) -> Result<Url> {
        if streams.iter().any(|name| name.is_empty()) {
            return Err(Error::new(ErrorKind::Option, "a stream has an empty name")
                .hint("name the streams, or none for those that the URL names"));
        }
        let names: Vec<String> = streams.iter().map(|name| utf8_percent_encode(name, NAME).to_string()).collect();
        let text = self.text.expose();
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let path = match names.as_slice() {
            [] => path.to_owned(),
            names => format!("{}/{}", path.trim_end_matches('/'), names.join(",")),
        };
        let kept = |pair: &&str| !without.iter().any(|name| name == option_name(pair));
        let query: Vec<&str> = query.split('&').filter(kept).collect();
        Url::parse(&format!("{path}?{}", query.join("&")))
    }

    /// Plans a role. One URL may say how to read and how to write: an option that this role refuses and the other one knows
    /// is left to that.
    fn plan<P>(&self, role: Role, streams: &[&str], plan: impl Fn(&Component, Value) -> Result<P>) -> Result<P> {
        let mut without: Vec<String> = Vec::new();
        loop {
            let url = self.url(streams, &without)?;
            let planned = self.registry.by_url(role, &url).and_then(|(component, options)| plan(component, options));
            let error = match planned {
                Ok(planned) => return Ok(planned),
                Err(error) => error,
            };
            let refused =
                error.place().and_then(|place| place.path.first()).filter(|_| error.kind() == ErrorKind::Option);
            match refused.filter(|name| !without.contains(name) && self.is_of_other(role, name)) {
                Some(name) => without.push(name.clone()),
                None => return Err(error),
            }
        }
    }

    /// Plans a sink whose options `change` has the last word on.
    fn plan_sink(
        &self,
        stream: &str,
        context: &PlanContext,
        change: impl Fn(&Component, &mut Value) -> Result<()>,
    ) -> Result<Box<dyn SinkPlan>> {
        let streams: &[&str] = if stream.is_empty() { &[] } else { &[stream] };
        let plan = |component: &Component, mut options: Value| {
            let Planner::Sink(plan) = component.planner else { return Err(wrong_role(Role::Sink)) };
            change(component, &mut options)?;
            let mut ending = options.clone();
            // A producer ends its stream only when it is told to, and then readers are to know it.
            match ending.as_object_mut().filter(|_| has_option(component, END)) {
                Some(object) if !object.contains_key(END) => {
                    object.insert(END.to_owned(), Value::Bool(true));
                    plan(&ending, context).or_else(|_| plan(&options, context))
                }
                _ => plan(&options, context),
            }
        };
        let planned = self.plan(Role::Sink, streams, plan);
        planned.map_err(|error| error.context(format!("cannot write {}", self.url)))
    }

    /// Whether an option of the URL is one that the other role knows.
    fn is_of_other(&self, role: Role, name: &str) -> bool {
        let knows = |wanted: Role| {
            let of = self.registry.iter().filter(|component| component.role() == wanted);
            let mut of = of.filter(|component| component.schemes.contains(&self.url.scheme.as_str()));
            of.any(|component| has_option(component, name))
        };
        let given = self.url.query.iter().any(|(option, _)| option_name(option) == name);
        given && knows(if role == Role::Source { Role::Sink } else { Role::Source })
    }
}

/// The outermost key of `name=value` or `name.inner=value`.
fn option_name(pair: &str) -> &str {
    pair.split(['=', '.']).next().unwrap_or_default()
}

/// Whether a component has an option, be it in one of several forms.
fn has_option(component: &Component, name: &str) -> bool {
    let schema = (component.schema)();
    let root = schema.as_value();
    let has = |schema: &Value| schema.get("properties").is_some_and(|properties| properties.get(name).is_some());
    let forms = ["anyOf", "oneOf"].into_iter().filter_map(|forms| root.get(forms)?.as_array()).flatten();
    let mut resolved = forms.filter_map(|form| match form.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.strip_prefix('#')?),
        None => Some(form),
    });
    has(root) || resolved.any(has)
}

/// Lets each record choose its shard.
fn by_shard(component: &Component, options: &mut Value) -> Result<()> {
    let Some(options) = options.as_object_mut() else { return Ok(()) };
    let known = SHARD_BY.iter().find(|(name, _)| has_option(component, name));
    let (name, by) = match known {
        Some((name, by)) => (*name, Value::from(*by)),
        // Given, it names one shard for all; its absence is checked too, because not all forms of a component know it.
        None if has_option(component, SHARD) => (SHARD, Value::Null),
        None => return Err(no_choice(component.name)),
    };
    match options.get(name) {
        Some(given) if *given != by => {
            let what = format!("`{name}` is given, and a partitioner too");
            Err(Error::new(ErrorKind::Option, what).hint("leave one of them out").within(name))
        }
        _ => {
            options.insert(name.to_owned(), by);
            Ok(())
        }
    }
}

/// The group is that of the consumer, with what the URL says of groups besides its name. What it says of them is not meant for a
/// consumer of none.
fn take_part(component: &Component, options: &mut Map<String, Value>, group: Option<&str>) {
    match (group.map(|name| Value::String(name.to_owned())), options.get_mut(GROUP)) {
        (Some(name), Some(Value::Object(own))) => _ = own.insert("name".to_owned(), name),
        (Some(name), _) => _ = options.insert(GROUP.to_owned(), name),
        (None, _) => {
            let of_groups = [GROUP, MEMBERSHIP].into_iter().filter(|option| has_option(component, option));
            of_groups.for_each(|option| _ = options.remove(option));
        }
    }
}

fn no_choice(name: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("nobody can choose the shards of a `{name}`"))
        .hint("leave the partitioner out")
}

fn wrong_role(role: Role) -> Error {
    Error::new(ErrorKind::Bug, format!("the registry holds something else as a {role}"))
}

impl Backend for ByUrl {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let plan = |component: &Component, mut options: Value| {
            if let Some(options) = options.as_object_mut().filter(|_| has_option(component, GROUP)) {
                take_part(component, options, group);
            }
            match component.planner {
                Planner::Source(plan) => plan(&options, &PlanContext::default()),
                _ => Err(wrong_role(Role::Source)),
            }
        };
        let planned = self.plan(Role::Source, streams, plan);
        planned.map_err(|error| error.context(format!("cannot read {}", self.url)))
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.plan_sink(stream, context, |_, _| Ok(()))
    }

    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.plan_sink(stream, context, by_shard).map_err(|error| {
            let refused = error.place().and_then(|place| place.path.first()).is_some_and(|name| name == SHARD);
            if refused && self.url.option(SHARD).is_none() { no_choice(&self.url.scheme) } else { error }
        })
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
