//! Conformance suites, fakes, fault injection and crash tests
