//! URLs through the component, and the parting from text files.

use millstream_core::{PlanContext, Role, Url};
use serde_json::json;

use super::*;

#[test]
fn urls_become_options() {
    let options = |role: Role, url: &str| component(role).from_url.unwrap()(&Url::parse(url).unwrap()).unwrap();
    let source = options(Role::Source, "file:///data/my%20file%2C1.ss/a,b?start=end&follow");
    assert_eq!(source, json!({"path": "/data/my file,1.ss", "streams": ["a", "b"], "start": "end", "follow": "true"}));
    assert_eq!(plan_source(&source).unwrap().describe(), "following a, b of /data/my file,1.ss");
    let sink = options(Role::Sink, "file:///data/x.ss/a?shard=2&beacon_interval=2KiB");
    assert!(plan_sink(&sink, &PlanContext::default()).unwrap().describe().ends_with("/data/x.ss as stream a"));
    // Others stay text files.
    assert_eq!(options(Role::Source, "file:///data/x.log"), json!({"path": "/data/x.log"}));
    assert!(!plan_source(&json!({"path": "x.ss", "codec": "lines"})).unwrap().capabilities().seek_time);
    assert!(plan_source(&json!({"path": "x.bin", "codec": "ss"})).unwrap().capabilities().seek_time);
}

#[test]
fn the_schema_has_both_kinds() {
    for role in [Role::Source, Role::Sink] {
        let schema = (component(role).schema)().to_value();
        assert_eq!(schema["anyOf"].as_array().unwrap().len(), 2, "{schema}");
        assert!(schema["$defs"].as_object().unwrap().keys().any(|name| name.starts_with("Ss")));
    }
}
