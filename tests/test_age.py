import pytest
import torch

from agelib import age, losses, sphere


def setup(seed=0, **settings):
    torch.manual_seed(seed)
    cfg = age.Config(**({"M": 6, "width": 4, "precision": "fp32"} | settings))
    nets = age.build(cfg, (3, 32, 32))
    x = torch.rand(8, 3, 32, 32) * 2 - 1
    return nets, cfg, x


def snapshot(net, buffers=False):
    items = net.named_buffers() if buffers else net.named_parameters()
    return {k: v.detach().clone() for k, v in items}


def moved(before, net, buffers=False):
    return {k for k, v in snapshot(net, buffers).items() if not torch.equal(before[k], v)}


def test_weights_per_sample():
    """lambda/(2M) on |z - egz|^2 as released, lambda/(4M) beside eq. 7."""
    for settings, weight in (
        ({"M": 128, "lam": 1000}, 3.906),
        ({"M": 128, "lam": 2000}, 7.8125),
        ({"M": 64, "lam": 1000, "objective": "paper"}, 3.906),
        ({"M": 3, "lam": 1000}, 166.667),
    ):
        assert age.Config(**settings).lam_per_sample == pytest.approx(weight, abs=1e-3)
    assert age.Config(mu=10, objective="paper").mu_per_pixel_mean == 5 and age.Config(mu=10).mu_per_pixel_mean == 10


def test_the_floor_of_the_divergence():
    assert age.Config(M=64).floor(64) == pytest.approx(3.6902, abs=2e-3)
    assert age.Config(M=64, objective="paper").floor(64) == pytest.approx(1.6028, abs=1e-3)
    assert age.Config(prior="gaussian").floor(64) is None and age.Config(divergence="nearest").floor(64) is None


@pytest.mark.parametrize(
    ("drop_lr", "halvings"),  # CIFAR-10's, CelebA's and Tiny ImageNet's released commands
    [
        (40, {0: 0, 38: 0, 38.99: 0, 39: 1, 78: 1, 79: 2, 118: 2, 119: 3, 149: 3}),
        (5, {3: 0, 3.99: 0, 4: 1}),
        (3, {1: 0, 2: 1, 4: 1, 5: 2}),
        (0, {1000: 0}),
    ],
)
def test_schedules_of_the_released_commands(drop_lr, halvings):
    nets, cfg, _ = setup(drop_lr=drop_lr)
    step = age.make_step(nets, cfg)
    for epoch, n in halvings.items():
        step.set_lr(epoch, 150)
        assert [o.param_groups[0]["lr"] for o in step.optimizers.values()] == [pytest.approx(2e-4 * 0.5**n)] * 2


def test_each_network_has_its_own_learning_rate():
    """Adam's first update moves no weight by more than lr, and most by nearly that."""
    nets, cfg, x = setup(n_g_steps=1, drop_lr=3, lr_g=1e-4, lr_e=5e-3)
    before, step = {name: snapshot(net) for name, net in nets.items()}, age.make_step(nets, cfg)
    for epoch, share in ((2.0, 0.5), (0.0, 1.0)):
        step.set_lr(epoch, 9)
        assert {n: o.param_groups[0]["lr"] for n, o in step.optimizers.items()} == {"g": 1e-4 * share, "e": 5e-3 * share}
    step(x)
    for name, lr in (("g", 1e-4), ("e", 5e-3)):
        most = max((p.detach() - before[name][k]).abs().max().item() for k, p in nets[name].named_parameters())
        assert most == pytest.approx(lr, rel=0.01)
    assert age.Config(lr_e=1e-3).lr_at(0, 1) == {"g": 2e-4, "e": 1e-3}


@pytest.mark.parametrize(
    ("settings", "mu", "lam"),  # weights of the mean pixel difference, and of the squared distance of one code
    [
        ({}, 7.0, 300.0 / 12),
        ({"recon_x": "l2", "recon_x_in_g": 5.0}, 7.0, 300.0 / 12),
        ({"objective": "paper"}, 3.5, 300.0 / 24),
        ({"objective": "paper", "prior": "gaussian"}, 3.5, 300.0 / 24),
        ({"kl_fake_weight": 0.5, "recon_z_in_e": 60.0}, 7.0, 300.0 / 12),
    ],
)
def test_one_iteration_equals_the_losses_written_out(settings, mu, lam):
    """The same iteration from the formulas alone, with plain Adam and nothing frozen: same weights after it."""
    nets, cfg, x = setup(lam=300.0, mu=7.0, n_g_steps=2, **settings)
    reference, _, _ = setup(**settings)
    prior, released = cfg.prior, cfg.objective == "released"
    g, e = reference["g"], reference["e"]
    step = age.make_step(nets, cfg)
    torch.manual_seed(11)
    logs = step(x)

    torch.manual_seed(11)
    adam = {n: torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n, net in reference.items()}
    z = sphere.sample(8, 6, prior)
    ex = e(x)
    L_X = lambda d: d.abs().mean() if cfg.recon_x == "l1" else d.square().mean()  # noqa: E731
    l_x = L_X(g(ex) - x)
    v = lambda c: (c - c.mean(0)).square().mean(0)  # noqa: E731
    spread = lambda c: v(c) if released else v(c).sqrt()  # noqa: E731
    kl = lambda c: ((spread(c) ** 2 + c.mean(0) ** 2) / 2 - spread(c).log() - 0.5).mean()  # noqa: E731
    egz = e(g(z).detach())
    adam["e"].zero_grad()
    l_z = (egz - z).square().sum(1).mean() * cfg.recon_z_in_e / 12
    (kl(ex) - cfg.kl_fake_weight * kl(egz) + mu * l_x + l_z).backward()
    adam["e"].step()
    assert logs["l_x"].item() == pytest.approx(l_x.item(), rel=1e-5)
    assert logs["kl_real"].item() == pytest.approx(kl(ex).item(), rel=1e-5)
    assert logs["var_real"].item() == pytest.approx(v(ex).mean().item(), rel=1e-5)
    for _ in range(2):
        z = sphere.sample(8, 6, prior)
        egz = e(g(z))
        l_z = (egz - z).square().sum(1).mean()
        adam["g"].zero_grad()
        (kl(egz) + lam * l_z + cfg.recon_x_in_g * L_X(g(e(x)) - x)).backward()
        adam["g"].step()
    assert logs["l_z"].item() == pytest.approx(l_z.item() / (2 if prior == "sphere" else 1), rel=1e-4)
    assert set(logs) == {"l_x", "kl_real", "kl_fake", "l_z", "var_real", "var_fake"}
    for name in ("g", "e"):
        for (k, a), b in zip(nets[name].named_parameters(), reference[name].parameters(), strict=True):
            assert torch.allclose(a, b, atol=2e-6), (name, k)


def test_encoder_step_leaves_the_generator_alone_and_learns_through_it():
    nets, _, x = setup(lam=0.0)
    nets["g"].requires_grad_(False)
    # gradient of mu L_X alone reaches e through g(e(x)):
    losses.recon_x_l1(nets["g"](nets["e"](x)), x).backward()
    assert nets["e"].layers[0].weight.grad.abs().max() > 0
    for game in ({"adversarial": False}, {"adversarial": True, "n_g_steps": 1}):
        nets, cfg, x = setup(lam=0.0, **game)
        step = age.make_step(nets, cfg)
        before = snapshot(nets["g"])
        step(x)  # without divergences and L_Z nothing is left that may train g
        assert bool(moved(before, nets["g"])) == game["adversarial"]


def test_who_moves_when():
    """With no generator learning rate only e moves, and the other way round; both nets' BatchNorm buffers always move."""
    for still, moving in (("g", "e"), ("e", "g")):
        nets, cfg, x = setup()
        step = age.make_step(nets, cfg)
        step.optimizers[still].param_groups[0]["lr"] = 0.0
        before = {n: snapshot(net) for n, net in nets.items()}
        buffers = {n: snapshot(net, buffers=True) for n, net in nets.items()}
        step(x)
        assert not moved(before[still], nets[still])
        assert moved(before[moving], nets[moving]) == set(before[moving])
        assert moved(buffers["g"], nets["g"], True) and moved(buffers["e"], nets["e"], True)


@pytest.mark.parametrize(("margin", "learns"), [(-100.0, False), (100.0, True)])
def test_margin_stops_the_divergence_gradient(margin, learns):
    nets, cfg, x = setup(margin=margin, mu=0.0)  # -100: KL(ex) - KL(egz) is below 100: clamped, nothing is left to learn
    step = age.make_step(nets, cfg)
    before = snapshot(nets["e"])
    step.optimizers["g"].param_groups[0]["lr"] = 0.0
    step(x)
    assert bool(moved(before, nets["e"])) == learns


def test_a_smaller_weight_of_kl_fake_pulls_real_codes_where_the_margin_binds():
    """By hand: beside a margin that always binds the encoder's gradient is 1 - kl_fake_weight times that of KL(ex) alone."""
    gradients = {}
    for weight in (1.0, 0.25):
        nets, cfg, x = setup(margin=-100.0, mu=0.0, kl_fake_weight=weight)
        assert "l_x" not in age.make_step(nets, cfg)(x)
        gradients[weight] = [p.grad.clone() for p in nets["e"].parameters()]
    assert all(not g.any() for g in gradients[1.0])
    nets, _, x = setup()
    (0.75 * losses.kl_released(nets["e"].train()(x))).backward()
    for got, p in zip(gradients[0.25], nets["e"].parameters(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-4, atol=1e-7)


def test_the_adaptive_weight_climbs_while_both_divergences_are_near_their_least():
    cfg, w = age.Config(M=10, adaptive=1.05), torch.tensor(0.5)
    least = losses.kl_released_minimum(10)
    for kl_real, kl_fake, after in ((1.04, 1.0, 0.501), (1.06, 1.0, 0.482), (1.0, 1.06, 0.463)):
        age.adapt(w, torch.tensor(kl_real * least), torch.tensor(kl_fake * least), cfg)
        assert w.item() == pytest.approx(after)
    w.fill_(0.01)
    age.adapt(w, torch.tensor(9.0), torch.tensor(9.0), cfg)
    assert w.item() == 0
    nets, cfg, x = setup(adaptive=1.05, kl_fake_weight=0.7)
    step = age.make_step(nets, cfg)
    assert step(x)["kl_fake_weight"].item() == pytest.approx(0.7) and nets["e"].kl_fake_weight.item() == pytest.approx(0.681)
    assert step.modules["e"].state_dict()["kl_fake_weight"].item() == pytest.approx(0.681)  # a checkpoint holds it
    for settings in ({"prior": "gaussian"}, {"objective": "paper"}, {"divergence": "nearest"}):
        with pytest.raises(ValueError, match="adaptive wants sphere"):
            age.Config(adaptive=1.05, **settings)


def test_averages_of_the_networks():
    nets, cfg, x = setup(ema=0.9, ema_e=0.7)
    step = age.make_step(nets, cfg)
    assert sorted(step.modules) == ["e", "e_ema", "g", "g_ema"] and sorted(step.optimizers) == ["e", "g"]
    old = {name: snapshot(nets[name]) for name in "ge"}
    step(x)
    for name, decay in (("g", 0.9), ("e", 0.7)):
        average = snapshot(step.modules[f"{name}_ema"])
        for k, v in nets[name].named_parameters():
            assert torch.allclose(average[k], decay * old[name][k] + (1 - decay) * v.detach(), atol=1e-6)
    assert sorted(age.make_step(*setup(ema_e=0.7)[:2]).modules) == ["e", "e_ema", "g"]
