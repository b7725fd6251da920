//! How fast it is: `cargo test --release -p millstream-file --test ss -- --ignored --nocapture speed`.
