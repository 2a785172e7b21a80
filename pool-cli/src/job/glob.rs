//! Files by pattern, found while they are needed.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use pool_worker::Data;
use walkdir::WalkDir;

/// Patterns and what they are relative to.
///
/// `*` and `?` stop at a slash, `**` does not; `[ab]` and `{a,b}` work too. Only files match. Links to files are followed, links
/// to folders are not. Files come in the order of their names, pattern by pattern, each once.
#[derive(Clone, Debug)]
pub(crate) struct Glob {
    patterns: Vec<Pattern>,
    exclude: GlobSet,
    base: PathBuf,
    form: PathForm,
}

/// How a found path is given to the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathForm {
    /// As the pattern writes it.
    AsWritten,
    /// Absolute.
    Absolute,
}

#[derive(Clone, Debug)]
struct Pattern {
    matcher: GlobMatcher,
    /// The folder to look in: the pattern up to its first component with a special character.
    root: PathBuf,
}

impl Glob {
    /// Reads the patterns. The error tells which one is wrong, counted through both lists, and why.
    pub(crate) fn new(
        patterns: &[String],
        exclude: &[String],
        base: PathBuf,
        form: PathForm,
    ) -> Result<Glob, (usize, String)> {
        let build = |(index, text): (usize, &String)| match compile(text) {
            Ok(glob) => Ok(glob),
            Err(error) => Err((index, error.kind().to_string())),
        };
        let globs =
            patterns.iter().chain(exclude).enumerate().map(build).collect::<Result<Vec<_>, _>>()?;
        let (wanted, unwanted) = globs.split_at(patterns.len());
        let pattern = |(glob, text): (&globset::Glob, &String)| Pattern {
            matcher: glob.compile_matcher(),
            root: literal_root(normal(text)),
        };
        let mut excluded = GlobSetBuilder::new();
        for glob in unwanted {
            excluded.add(glob.clone());
        }
        Ok(Glob {
            patterns: wanted.iter().zip(patterns).map(pattern).collect(),
            exclude: excluded.build().map_err(|error| (0, error.to_string()))?,
            base,
            form,
        })
    }

    /// Walks the folders. What can't be read, such as a folder without permission, is an error among the files.
    pub(crate) fn walk(&self) -> impl Iterator<Item = Result<Data, Unreadable>> + Send + use<> {
        Walk { glob: self.clone(), next: (0..self.patterns.len()).collect(), current: None }
    }

    /// Whether a file is to be taken for the given pattern: the first one that matches it.
    fn selects(&self, index: usize, path: &Path) -> bool {
        let first = self.patterns.iter().position(|pattern| pattern.matcher.is_match(path));
        first == Some(index) && !self.exclude.is_match(path)
    }

    /// A folder all of whose files are excluded need not be looked into.
    fn is_pruned(&self, folder: &Path) -> bool {
        self.exclude.is_match(folder) || self.exclude.is_match(folder.join(""))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<&str> =
            self.patterns.iter().map(|pattern| pattern.matcher.glob().glob()).collect();
        write!(f, "files {} in {}", patterns.join(", "), self.base.display())
    }
}

impl Pattern {
    /// A path below the root as the pattern would write it.
    fn written(&self, base: &Path, path: &Path) -> PathBuf {
        match path.strip_prefix(base.join(&self.root)) {
            Ok(below) if below.as_os_str().is_empty() => self.root.clone(),
            Ok(below) => self.root.join(below),
            Err(_) => path.to_owned(),
        }
    }
}

fn is_file(entry: &walkdir::DirEntry) -> bool {
    entry.file_type().is_file() || entry.path_is_symlink() && entry.path().is_file()
}

/// A place that can't be looked into, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) path: Data,
    pub(crate) error: String,
}

struct Walk {
    glob: Glob,
    next: VecDeque<usize>,
    current: Option<(usize, walkdir::IntoIter)>,
}

impl Iterator for Walk {
    type Item = Result<Data, Unreadable>;

    fn next(&mut self) -> Option<Result<Data, Unreadable>> {
        loop {
            let Some((index, entries)) = &mut self.current else {
                let index = self.next.pop_front()?;
                let root = self.glob.base.join(&self.glob.patterns[index].root);
                if root.exists() {
                    self.current =
                        Some((index, WalkDir::new(root).sort_by_file_name().into_iter()));
                }
                continue;
            };
            let entry = match entries.next() {
                None => {
                    self.current = None;
                    continue;
                }
                Some(Err(error)) => return Some(Err(unreadable(&error))),
                Some(Ok(entry)) => entry,
            };
            let path = self.glob.patterns[*index].written(&self.glob.base, entry.path());
            if entry.file_type().is_dir() && self.glob.is_pruned(&path) {
                entries.skip_current_dir();
            } else if is_file(&entry) && self.glob.selects(*index, &path) {
                return Some(Ok(Data::from(match self.glob.form {
                    PathForm::AsWritten => path,
                    PathForm::Absolute => self.glob.base.join(path),
                })));
            }
        }
    }
}

fn unreadable(error: &walkdir::Error) -> Unreadable {
    let path = error.path().map(|path| Data::from(path.to_owned())).unwrap_or_default();
    let error = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
    Unreadable { path, error }
}

fn compile(text: &str) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(normal(text)).literal_separator(true).build()
}

/// `./a` means `a`.
fn normal(mut text: &str) -> &str {
    while let Some(rest) = text.strip_prefix("./") {
        text = rest;
    }
    text
}

fn literal_root(pattern: &str) -> PathBuf {
    let special = pattern.find(['*', '?', '[', '{', '\\']);
    match special {
        // No special character: the pattern is the path of one file.
        None => PathBuf::from(pattern),
        Some(at) => {
            PathBuf::from(&pattern[..pattern[..at].rfind('/').map_or(0, |slash| slash + 1)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in
            ["a.rs", "b.txt", "src/c.rs", "src/deep/d.rs", "src/target/e.rs", ".hidden/f.rs"]
        {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        folder
    }

    fn found(base: &Path, patterns: &[&str], exclude: &[&str]) -> Vec<String> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let glob =
            Glob::new(&texts(patterns), &texts(exclude), base.into(), PathForm::AsWritten).unwrap();
        glob.walk().map(|path| path.unwrap().to_text().into_owned()).collect()
    }

    #[test]
    fn patterns_are_relative_and_in_order() {
        let folder = tree();
        let base = folder.path();
        assert_eq!(found(base, &["*.rs"], &[]), ["a.rs"]);
        assert_eq!(
            found(base, &["**/*.rs"], &[]),
            [".hidden/f.rs", "a.rs", "src/c.rs", "src/deep/d.rs", "src/target/e.rs"]
        );
        assert_eq!(
            found(base, &["src/*.rs", "./src/**/[cd].rs"], &[]),
            ["src/c.rs", "src/deep/d.rs"]
        );
        assert_eq!(found(base, &["b.txt", "no/such/*"], &[]), ["b.txt"]);
        assert_eq!(found(&base.join("src"), &["../*.{rs,txt}"], &[]), ["../a.rs", "../b.txt"]);
        let absolute = format!("{}/src/*.rs", base.display());
        assert_eq!(
            found(Path::new("/"), &[&absolute], &[]),
            [format!("{}/src/c.rs", base.display())]
        );
    }

    #[test]
    fn excluded_folders_are_not_looked_into() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tree();
        let locked = folder.path().join("src/target");
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
        let files = found(folder.path(), &["src/**"], &["**/target/**", "**/deep"]);
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(files, ["src/c.rs"]);
    }

    #[test]
    fn links_to_files_are_files() {
        let folder = tree();
        std::os::unix::fs::symlink("a.rs", folder.path().join("link.rs")).unwrap();
        std::os::unix::fs::symlink("gone", folder.path().join("dangling.rs")).unwrap();
        std::os::unix::fs::symlink("src", folder.path().join("folder.rs")).unwrap();
        assert_eq!(found(folder.path(), &["*.rs"], &[]), ["a.rs", "link.rs"]);
    }

    #[test]
    fn a_wrong_pattern_is_named() {
        let patterns = ["ok".to_owned(), "[a".to_owned()];
        let (index, error) = Glob::new(&patterns, &[], "/".into(), PathForm::Absolute).unwrap_err();
        assert_eq!((index, error.contains("unclosed character class")), (1, true), "{error}");
    }
}
