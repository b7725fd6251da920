//! Every benchmark, with peers and limits beside it
