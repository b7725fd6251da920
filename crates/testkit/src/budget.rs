//! How much work a test may make.

/// `long` where `MILLSTREAM_LONG` is set, as `cargo xtask test --long` does, and `usual` otherwise.
pub fn budget<T>(usual: T, long: T) -> T {
    if std::env::var_os("MILLSTREAM_LONG").is_some() { long } else { usual }
}
