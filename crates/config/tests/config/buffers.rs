//! The key `buffer` of sinks.

use millstream_core::Size;
use millstream_runtime::{BufferSpec, WhenFull};

use crate::fake::{good, read, registry, shown};

fn sink(sink: &str) -> String {
    format!("source: {{ stdin: {{}} }}\nsink:\n  stdout: {{}}\n{sink}")
}

/// Place, a part of the message, a part of the hint of the only mistake.
#[track_caller]
fn wrong(text: &str, place: &str, message: &str, hint: &str) {
    let found = read(text).err().unwrap_or_default();
    let [only] = &found[..] else { panic!("{}", shown(&found)) };
    let position = only.position().map(|(_, line, column)| format!("{line}:{column}")).unwrap_or_default();
    assert_eq!(position, place, "{}", shown(&found));
    assert!(only.error().chain().contains(message), "{}", shown(&found));
    assert!(only.error().hint_text().unwrap_or_default().contains(hint), "{}", shown(&found));
}

#[test]
fn a_sink_may_have_a_buffer() {
    let file = good(&sink("  buffer: { disk: 10GiB, when_full: drop_oldest }\n"));
    let expected = BufferSpec { disk: Size(10 << 30), when_full: WhenFull::DropOldest };
    assert_eq!(file.spec().sinks[0].buffer, Some(expected));
    let file = good(&sink("  buffer: { disk: 10MiB }\n"));
    assert_eq!(file.spec().sinks[0].buffer, Some(BufferSpec::new(Size(10 << 20))), "it blocks when it is full");
    assert_eq!(good(&sink("")).spec().sinks[0].buffer, None);
}

#[test]
fn what_is_wrong_with_a_buffer_is_told_at_its_place() {
    wrong(&sink("  buffer: { disk: much }\n"), "4:19", "much", "");
    wrong(&sink("  buffer: { disk: 10GiB, when_full: drop }\n"), "4:37", "drop", "");
    wrong(&sink("  buffer: { disk: 5KiB }\n"), "4:19", "a buffer of 5KiB is too small", "give it 1MiB or more");
    wrong(&sink("  buffer: { when_full: block }\n"), "4:3", "`disk` is missing", "");
    wrong(&sink("  buffer: { disk: 10GiB, size: 3 }\n"), "4:26", "size", "");
}

#[test]
fn only_sinks_have_buffers() {
    let text = "source:\n  stdin: {}\n  buffer: { disk: 10GiB }\nsink: { stdout: {} }\n";
    wrong(text, "3:3", "a source has no `buffer`", "sinks have buffers");
}

#[test]
fn the_schema_knows_it() {
    let schema = millstream_config::schema(&registry()).to_value();
    assert_eq!(schema["$defs"]["sink"]["properties"]["buffer"]["$ref"], "#/$defs/buffer");
    assert!(schema["$defs"]["source"]["properties"].get("buffer").is_none());
}
