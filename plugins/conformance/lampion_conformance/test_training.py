"""L2: networks trained from the same weights reach the same losses."""

from __future__ import annotations

import numpy as np

import lampion
from lampion import nn

F = nn.functional


def data(rng, n=64):
    """Points in the plane, and which of three rings each is in."""
    x = rng.standard_normal((n, 2))
    return x, np.digitize(np.linalg.norm(x, axis=1), [0.8, 1.5])


def by_hand(x, y, w, steps, rate, momentum):
    """The losses of tanh(x w0 + b0) w1 + b1 under cross entropy and SGD, in float64 NumPy."""
    w = [a.copy() for a in w]
    speed = [np.zeros_like(a) for a in w]
    losses = []
    for _ in range(steps):
        h = np.tanh(x @ w[0] + w[1])
        z = h @ w[2] + w[3]
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log(p[np.arange(len(y)), y]).mean())
        p[np.arange(len(y)), y] -= 1
        p /= len(y)
        back = (p @ w[2].T) * (1 - h * h)
        grads = [x.T @ back, back.sum(0), h.T @ p, p.sum(0)]
        for a, v, g in zip(w, speed, grads):
            v *= momentum
            v += g
            a -= rate * v
    return losses


def test_a_small_network_reaches_the_known_loss(device, rng):
    x, y = data(rng)
    w = [rng.standard_normal((2, 16)), np.zeros(16), rng.standard_normal((16, 3)) / 4, np.zeros(3)]
    want = by_hand(x, y, w, 40, 0.5, 0.9)
    made = [lampion.tensor(a.astype(np.float32)).to(device).requires_grad_() for a in w]
    optimizer = lampion.optim.SGD(made, lr=0.5, momentum=0.9)
    inputs = lampion.tensor(x.astype(np.float32)).to(device)
    labels = lampion.tensor(y).to(device)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy((inputs @ made[0] + made[1]).tanh() @ made[2] + made[3], labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, want, rtol=2e-3, atol=2e-4)
    assert losses[-1] < 0.3 * losses[0]


def test_a_convolutional_network_trains_as_on_the_oracle(device, oracle):
    """Convolution, batch norm, pooling, dropout, Adam: the losses of ten steps."""
    def train(where):
        lampion.manual_seed(4)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Dropout(0.1), nn.Flatten(), nn.Linear(64, 5)).to(where)
        lampion.manual_seed(5)  # the weights were drawn on the host, dropout is on the device
        rng = np.random.default_rng(2)
        x = lampion.tensor(rng.standard_normal((16, 1, 8, 8)).astype(np.float32)).to(where)
        y = lampion.tensor(rng.integers(0, 5, 16)).to(where)
        optimizer = lampion.optim.Adam(net.parameters(), lr=0.01)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    got, want = train(device), train(oracle)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4)
    assert got[-1] < got[0]
