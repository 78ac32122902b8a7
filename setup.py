"""Build the package: `handwriting`, with the modules and networks of the top level inside.

On the top level of an installation, model.py, utils.py and generate.py would be in the way of a program's own utils.py.
So the built package has them as `handwriting.model` and so on, and the networks in handwriting/save/.
"""

import re
from glob import glob
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP_LEVEL = ("model", "utils", "generate")
IMPORT = re.compile(rf"^(\s*from )({'|'.join(TOP_LEVEL)})(?= import )", re.MULTILINE)
NETWORKS = [*glob("save/*.pt"), *glob("save/styles/*.json")]


class BuildPackage(build_py):
    """Copies the package and what belongs to it on the top level."""

    def find_package_modules(self, package, package_dir):
        top_level = [(package, name, f"{name}.py") for name in TOP_LEVEL] if package == "handwriting" else []
        return super().find_package_modules(package, package_dir) + top_level

    def build_module(self, module, module_file, package):
        built, copied = super().build_module(module, module_file, package)
        Path(built).write_text(IMPORT.sub(r"\1handwriting.\2", Path(built).read_text("utf-8")), "utf-8")
        return built, copied

    def run(self):
        super().run()
        for path in [] if self.editable_mode else NETWORKS:
            target = Path(self.build_lib, "handwriting", path)
            self.mkpath(str(target.parent))
            self.copy_file(path, str(target))

    def get_source_files(self):  # for `python -m build --sdist`
        return super().get_source_files() + NETWORKS


setup(cmdclass={"build_py": BuildPackage})
