"""A child in Perl that keeps a state and writes a log of its own: jobs are not only Python."""

from __future__ import annotations

import subprocess

from pace import report, steps

PERL = r"""
use strict; $| = 1;
open(my $log, '>', 'perl.log') or die; select((select($log), $| = 1)[0]);
my $state = 1;
while (<STDIN>) { $state = ($state * 31 + $_) % 1000003; print $log "$state\n"; print "$state\n"; }
"""


def main() -> None:
    with subprocess.Popen(
        ["perl", "-e", PERL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        answers = []
        for step in steps(100):
            child.stdin.write(f"{step}\n")
            child.stdin.flush()
            answers.append(child.stdout.readline())
    report(answers, child.returncode)


if __name__ == "__main__":
    main()
