"""Where Kafka's jars come from, and what is made of them once to start quickly.

Owns the cache folder: the jars (Maven brings them, pinned and checked), an archive of
loaded classes, which halves a start, and a formatted log folder's one file, which saves
a second JVM for each node. It must not know how a broker is configured or run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

__all__ = ["KAFKA_VERSION", "bring_kafka", "find_jars", "find_java", "made_folder"]

KAFKA_VERSION = "4.3.1"
"""As in kafka-pom.xml."""

_HERE = Path(__file__).parent

BRING = "make brokers"
"""The command that brings the jars, by `bring_kafka`."""

MAVEN_LIMIT = 900.0
"""Seconds for Maven: 44 MB, from wherever it is told to take them."""


def find_java() -> str:
    """The Java that runs brokers.

    Raises:
        FileNotFoundError: There is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise FileNotFoundError(
            "no java on PATH or in JAVA_HOME; install Java 17 or later"
        )
    return found


def find_jars() -> list[Path]:
    """All jars of Kafka, sorted: the class archive is bound to their order.

    Raises:
        FileNotFoundError: There are none; it says how to bring them.
    """
    find_java()
    home = os.environ.get("KAFKA_HOME")
    folder = Path(home) / "libs" if home else _cache() / "libs"
    jars = sorted(folder.glob("*.jar"))
    if not jars:
        raise FileNotFoundError(
            f"no Kafka in {folder}; bring it: {BRING}, or set KAFKA_HOME"
        )
    return jars


def made_folder(jars: list[Path]) -> Path:
    """The folder for what is made of these jars by this Java, once."""
    java = Path(find_java()).resolve()
    release = java.parent.parent / "release"
    about = release.read_text() if release.exists() else str(java.stat().st_mtime_ns)
    text = "\n".join([str(java), about, *map(str, jars)])
    return _cache() / f"made-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def bring_kafka() -> Path:
    """Bring the jars by Maven if they are not there, and check them.

    Returns:
        The folder that has them.

    Raises:
        FileNotFoundError: There is no Java or no Maven.
        RuntimeError: Maven failed, or brought something else than was pinned.
    """
    find_java()
    target = _cache() / "libs"
    if target.is_dir():
        _check(target)
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise FileNotFoundError("no mvn on PATH; install Maven")
    _cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bring-", dir=_cache()) as work:
        shutil.copyfile(_HERE / "kafka-pom.xml", Path(work) / "pom.xml")
        command = [
            *(maven, "-q", "-B", "dependency:copy-dependencies"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={work}/libs"),
        ]
        try:
            done = subprocess.run(  # noqa: S603 - our own command
                command,
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=MAVEN_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"Maven took over {MAVEN_LIMIT:g} s") from None
        if done.returncode:
            raise RuntimeError(f"Maven could not bring Kafka: {done.stdout[-2000:]}")
        _check(Path(work) / "libs")
        if not target.is_dir():
            (Path(work) / "libs").rename(target)
    return target


def _cache() -> Path:
    folder = platformdirs.user_cache_path("remoting-bus") / f"kafka-{KAFKA_VERSION}"
    return folder.absolute()


def _check(folder: Path) -> None:
    """Compare each jar with its pinned checksum.

    Raises:
        RuntimeError: One differs, is missing or was not asked for.
    """
    lines = (_HERE / "kafka-jars.sha256").read_text().splitlines()
    pinned = {name: digest for digest, name in (line.split() for line in lines)}
    found = {jar.name for jar in folder.glob("*.jar")}
    wrong = sorted(found ^ set(pinned))
    for jar in sorted(found & set(pinned)):
        with (folder / jar).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != pinned[jar]:
                wrong.append(jar)
    if wrong:
        raise RuntimeError(
            f"the jars in {folder} are not those of kafka-jars.sha256: "
            f"{', '.join(wrong)}. Remove the folder and bring them again"
        )
