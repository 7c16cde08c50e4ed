# A simulator in one file. Copy it, change the four parts, then: sciinf check simulator.py
import numpy as np

from sciinf import LogNormal, Observable, Prior, wrappers

prior = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), amplitude=(LogNormal(1.0, 0.3), "mV"))  # 1. what you want to know
t = np.linspace(0, 5, 50)


def voltage(rate, amplitude, rng):  # 2. one simulation; the names are the prior's, all randomness comes from rng
    return {"v": amplitude * np.exp(-rate * t) + 0.1 * rng.normal(size=50)}


observables = {  # 3. shape, unit and axes of what it returns, and where it stands: a file's column `t` has to agree
    "v": Observable((50,), "mV", dims=("time",), coords={"time": t}, coord_units={"time": "h"})
}
simulator = wrappers.numpy(voltage, prior, observables)  # 4. the file must define `simulator`
