//! Connector for text files, globs and .ss stream files
