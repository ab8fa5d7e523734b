//! A share of the processor that one region may use, by a cgroup of its own: so a region is as fast
//! as it is, whatever the others leave.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Result, Tried};

/// Where cgroups of the processor are, of both versions.
const FIRST: &str = "/sys/fs/cgroup/cpu";
const SECOND: &str = "/sys/fs/cgroup";
/// Microseconds over which the share holds: short beside a request's time.
const PERIOD: u64 = 10_000;

/// A process that may use so much and no more, until this is dropped.
pub(super) struct Share {
    group: PathBuf,
    pid: u32,
}

impl Share {
    /// Holds a process to so many percent of one core.
    pub(super) fn of(pid: u32, percent: u16) -> Result<Share> {
        let is_first = Path::new(FIRST).join("cpu.cfs_quota_us").exists();
        let root = Path::new(if is_first { FIRST } else { SECOND });
        let group = root.join(format!("isthmus-bench-{pid}"));
        let quota = PERIOD * u64::from(percent) / 100;
        let write = |name: &str, text: String| {
            let file = group.join(name);
            fs::write(&file, text).tried(|| format!("write {}", file.display()))
        };
        fs::create_dir_all(&group).tried(|| format!("make {}", group.display()))?;
        let share = Share { group: group.clone(), pid };
        if is_first {
            write("cpu.cfs_period_us", PERIOD.to_string())?;
            write("cpu.cfs_quota_us", quota.to_string())?;
        } else {
            write("cpu.max", format!("{quota} {PERIOD}"))?;
        }
        write("cgroup.procs", pid.to_string())?;
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // A group goes only when nobody is in it.
        if let Some(root) = self.group.parent() {
            let _ = fs::write(root.join("cgroup.procs"), self.pid.to_string());
        }
        let _ = fs::remove_dir(&self.group);
    }
}
