"""A source of model files that invents them, and breaks when told."""

import hashlib

from models.fetch import Published


class FakeRemote:
    """Serves invented content.

    ``break_after`` bytes of a file, ``breaks`` is raised; what arrives goes to ``part_is``.
    """

    def __init__(self):
        self.calls = []
        self.resumed = []
        self.break_after = None
        self.breaks = ConnectionError("reset by peer")
        self.corrupt = set()
        self.unavailable = set()
        self.part_is = None

    def content(self, file):
        return f"{file.source}/{file.path}".encode() * 50

    def published(self, file):
        if file.path in self.unavailable:
            raise FileNotFoundError("404")
        content = self.content(file)
        if file.git_blob is not None:
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return Published(len(content), git_blob=blob)
        return Published(len(content), sha256=hashlib.sha256(content).hexdigest())

    def download(self, file, published, folder, progress):
        self.calls.append(file.path)
        content = self.content(file)
        if file.path in self.corrupt:
            content = content[:-1] + b"!"
        part = folder / "part"
        if self.part_is is not None:
            part.symlink_to(self.part_is)
        have = part.stat().st_size if part.exists() else 0
        self.resumed.append(have)
        with part.open("ab") as out:
            if self.break_after is not None:
                out.write(content[have : self.break_after])
                out.flush()
                raise self.breaks
            out.write(content[have:])
        progress(len(content))
        return part
