//! The calls of the C library that change or read files: a test program's own stand before them for
//! everything that is linked in, C++ as well as Rust's standard library, ask whether they may, and
//! go on to the C library's. They must never do anything else.
#![allow(unsafe_code)]

use super::watch::{self, Kind, On};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

const EINVAL: c_int = 22;
/// `lseek`: the next byte that is not in a hole.
const SEEK_DATA: c_int = 3;
/// `open`: make the file if there is none.
const O_CREAT: c_int = 0o100;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
}

/// The C library's own function.
///
/// # Safety
/// `F` must be a function pointer of the type that the function has.
#[doc(hidden)]
pub unsafe fn real<F: Copy>(name: &CStr) -> F {
    // `RTLD_NEXT`: the definition after this program's.
    let next = -1isize as *mut c_void;
    // SAFETY: the name ends with a zero byte; the answer is checked before it is used.
    let found = unsafe { dlsym(next, name.as_ptr()) };
    assert!(!found.is_null(), "the C library has {name:?}");
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: both are pointers; the caller answers for the type.
    unsafe { std::mem::transmute_copy(&found) }
}

fn refuse(error: Option<i32>) -> bool {
    if let Some(error) = error {
        // SAFETY: the C library gives this thread's own variable.
        unsafe { *__errno_location() = error };
    }
    error.is_some()
}

/// Must the call fail? Then `errno` is set.
#[doc(hidden)]
pub fn fails(kind: Kind, name: &'static str, fd: c_int) -> bool {
    refuse(watch::before(kind, name, On::File(fd)))
}

/// The same for a call with a path.
///
/// # Safety
/// `path` must be null or end with a zero byte.
#[doc(hidden)]
pub unsafe fn fails_at(kind: Kind, name: &'static str, path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: the caller says so.
    let path = unsafe { CStr::from_ptr(path) };
    refuse(watch::before(kind, name, On::Path(OsStr::from_bytes(path.to_bytes()).as_ref())))
}

/// The same for `open`, which is a change of names only if it may make a file.
///
/// # Safety
/// `path` must be null or end with a zero byte.
#[doc(hidden)]
pub unsafe fn fails_to_open(path: *const c_char, flags: c_int) -> bool {
    // SAFETY: the caller says so.
    flags & O_CREAT != 0 && unsafe { fails_at(Kind::Shape, "open", path) }
}

/// The next byte at or after `at` that is not in a hole; `None` if there is only a hole.
pub(super) fn next_data(file: &File, at: u64) -> Option<u64> {
    // SAFETY: the descriptor is open as long as the file is borrowed.
    let found = unsafe { lseek(file.as_raw_fd(), at as i64, SEEK_DATA) };
    match u64::try_from(found) {
        Ok(found) => Some(found),
        // A file system that does not tell holes has none.
        Err(_) if std::io::Error::last_os_error().raw_os_error() == Some(EINVAL) => Some(at),
        Err(_) => None,
    }
}

/// Checks engines whose disk fails or loses power, one line each, and once in a test program: the
/// program's calls of the C library are its own from then on. Linux with glibc only.
///
/// ```text
/// damask_kv::disk_suite! {
///     my_engine => |path| MyEngine::open(path);
/// }
/// ```
///
/// makes a module of that name with the tests `failing_calls` and `power_cuts`. See
/// [`crate::testing::disk`] for what they ask for.
#[macro_export]
macro_rules! disk_suite {
    ($($(#[$attribute:meta])* $name:ident => $open:expr;)+) => {
        $crate::disk_calls!();
        $(
            $(#[$attribute])*
            mod $name {
                #[allow(unused_imports)]
                use super::*;

                #[test]
                fn failing_calls() {
                    $crate::testing::disk::failing_calls($open);
                }

                #[test]
                fn power_cuts() {
                    $crate::testing::disk::power_cuts($open);
                }
            }
        )+
    };
}

/// The calls alone, for a test program of stores that are no engines, each in a
/// [`crate::testing::disk::WatchedFolder`]; once in a program, at its root.
#[macro_export]
macro_rules! disk_calls {
    () => {
        $crate::calls_before_the_c_library! {
            files {
                Write write(bytes: *const c_void, len: usize) -> isize;
                Write pwrite(bytes: *const c_void, len: usize, at: i64) -> isize;
                Write pwrite64(bytes: *const c_void, len: usize, at: i64) -> isize;
                Write writev(parts: *const c_void, count: c_int) -> isize;
                Write pwritev(parts: *const c_void, count: c_int, at: i64) -> isize;
                Write pwritev64(parts: *const c_void, count: c_int, at: i64) -> isize;
                Sync fsync() -> c_int;
                Sync fdatasync() -> c_int;
                Shape ftruncate(len: i64) -> c_int;
                Shape ftruncate64(len: i64) -> c_int;
                Shape fallocate(mode: c_int, at: i64, len: i64) -> c_int;
                Shape fallocate64(mode: c_int, at: i64, len: i64) -> c_int;
                Read read(bytes: *mut c_void, len: usize) -> isize;
                Read pread(bytes: *mut c_void, len: usize, at: i64) -> isize;
                Read pread64(bytes: *mut c_void, len: usize, at: i64) -> isize;
                Read readv(parts: *const c_void, count: c_int) -> isize;
                Read preadv(parts: *const c_void, count: c_int, at: i64) -> isize;
                Read preadv64(parts: *const c_void, count: c_int, at: i64) -> isize;
            }
            paths {
                mkdir(path) (mode: c_uint);
                rmdir(path) ();
                unlink(path) ();
                rename(path) (to: *const c_char);
                link(path) (to: *const c_char);
            }
            opens { open; open64; }
        }
    };
}

/// Defines functions that ask first, and then call the C library's.
#[doc(hidden)]
#[macro_export]
macro_rules! calls_before_the_c_library {
    (
        files { $($kind:ident $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)* }
        paths { $($of_path:ident($path:ident) ($($more:ident: $more_type:ty),*);)* }
        opens { $($open:ident;)* }
    ) => {
        #[allow(unsafe_code)]
        mod calls_before_the_c_library {
            use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
            use std::sync::OnceLock;
            use $crate::testing::disk::{calls, watch::Kind};

            fn named(name: &'static str) -> &'static CStr {
                CStr::from_bytes_with_nul(name.as_bytes()).expect("it ends with a zero")
            }

            $(
                #[unsafe(no_mangle)]
                extern "C" fn $name(fd: c_int, $($argument: $type),*) -> $result {
                    type Call = unsafe extern "C" fn(c_int, $($type),*) -> $result;
                    static REAL: OnceLock<Call> = OnceLock::new();
                    if calls::fails(Kind::$kind, stringify!($name), fd) {
                        return -1;
                    }
                    // SAFETY: the type is the function's in the manual.
                    let real = || unsafe {
                        calls::real::<Call>(named(concat!(stringify!($name), "\0")))
                    };
                    // SAFETY: the arguments are the caller's.
                    unsafe { REAL.get_or_init(real)(fd, $($argument),*) }
                }
            )*

            $(
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $of_path(
                    $path: *const c_char,
                    $($more: $more_type),*
                ) -> c_int {
                    type Call = unsafe extern "C" fn(*const c_char, $($more_type),*) -> c_int;
                    static REAL: OnceLock<Call> = OnceLock::new();
                    // SAFETY: the caller passes what the C library's function takes.
                    if unsafe { calls::fails_at(Kind::Shape, stringify!($of_path), $path) } {
                        return -1;
                    }
                    // SAFETY: the type is the function's in the manual.
                    let real = || unsafe {
                        calls::real::<Call>(named(concat!(stringify!($of_path), "\0")))
                    };
                    // SAFETY: the arguments are the caller's.
                    unsafe { REAL.get_or_init(real)($path, $($more),*) }
                }
            )*

            $(
                // A third argument that was not passed is passed on unread, as the C library
                // reads it only when there is one.
                #[unsafe(no_mangle)]
                unsafe extern "C" fn $open(
                    path: *const c_char,
                    flags: c_int,
                    mode: c_uint,
                ) -> c_int {
                    type Call = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
                    static REAL: OnceLock<Call> = OnceLock::new();
                    // SAFETY: the caller passes what the C library's function takes.
                    if unsafe { calls::fails_to_open(path, flags) } {
                        return -1;
                    }
                    // SAFETY: the type is the function's in the manual.
                    let real = || unsafe {
                        calls::real::<Call>(named(concat!(stringify!($open), "\0")))
                    };
                    // SAFETY: the arguments are the caller's.
                    unsafe { REAL.get_or_init(real)(path, flags, mode) }
                }
            )*
        }
    };
}
